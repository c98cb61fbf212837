//! `events`.

use crate::{
    admin::wire::{EventJson, EventsJson, StreamLine},
    cli::{
        args::{EventsArgs, From},
        client::Client,
        exit::{Code, Failure},
        output::{Output, clean},
    },
};
use std::{
    ops::ControlFlow,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The agent sends an empty line every 5 s.
const SILENCE: Duration = Duration::from_secs(30);

pub(super) async fn run(client: &Client, args: &EventsArgs, output: Output) -> Result<(), Failure> {
    let since = args.since.map(|from| match from {
        From::Number(n) => format!("since={n}"),
        From::Moment(at) => format!("from={at}"),
        From::Ago(ago) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            format!("from={}", now.saturating_sub(ago).as_millis())
        }
    });
    let query = since.unwrap_or_default();
    if args.follow {
        return follow(client, &format!("/v1/events?follow=true&{query}"), output).await;
    }
    let list: EventsJson = client.get(&format!("/v1/events?{query}")).await?;
    // One object a line, as when followed.
    let mut text = String::new();
    if list.missed > 0 {
        text.push_str(&missed(list.missed, output)?);
    }
    for event in &list.events {
        text.push_str(&if output.json { ndjson(event)? } else { describe(event, output) });
    }
    output.print(&text)
}

async fn follow(client: &Client, path: &str, output: Output) -> Result<(), Failure> {
    let mut end = None;
    let mut unread = false;
    client
        .stream(path, SILENCE, |line| {
            let parsed = serde_json::from_str(line)
                .map_err(|e| Failure::new(Code::Failure, format!("the agent sent no event of ours: {e}")))?;
            let text = match &parsed {
                _ if output.json => format!("{line}\n"),
                StreamLine::Event(event) => describe(event, output),
                StreamLine::Missed { missed: count } => missed(*count, output)?,
                StreamLine::End { .. } => String::new(),
            };
            unread = !output.print_on(&text)?;
            if let StreamLine::End { end: why, slow } = parsed {
                end = Some((why, slow));
            }
            Ok(if unread || end.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })
        .await?;
    match end {
        _ if unread => Ok(()),
        Some((why, true)) => {
            Err(Failure::new(Code::TryAgain, clean(&why)).fix("follow again --since that number"))
        }
        Some((why, false)) => Err(Failure::new(Code::Unreachable, clean(&why))),
        None => {
            Err(Failure::new(Code::Unreachable, "the agent ended without a word").fix("its log may say more"))
        }
    }
}

fn ndjson<T: serde::Serialize>(value: &T) -> Result<String, Failure> {
    let text = serde_json::to_string(value)
        .map_err(|e| Failure::new(Code::Failure, format!("cannot write JSON: {e}")))?;
    Ok(format!("{text}\n"))
}

fn missed(count: u64, output: Output) -> Result<String, Failure> {
    if output.json {
        return ndjson(&StreamLine::Missed { missed: count });
    }
    Ok(format!("({count} earlier events are forgotten)\n"))
}

/// `2026-11-21T07:00:00.123Z  17  node-down            n2  does not answer`
fn describe(event: &EventJson, output: Output) -> String {
    let at = UNIX_EPOCH.checked_add(Duration::from_millis(event.at)).unwrap_or(UNIX_EPOCH);
    // Padded before it is painted: colours have no width. A year beyond 9999 cannot be written.
    let kind = output.alarm(&format!("{:<21}", event.kind), event.trouble);
    let when = if event.at < 253_402_300_800_000 {
        humantime::format_rfc3339_millis(at).to_string()
    } else {
        "-".to_owned()
    };
    format!("{when}  {:>4}  {kind}  {:<16}  {}\n", event.seq, clean(&event.subject), clean(&event.text))
}
