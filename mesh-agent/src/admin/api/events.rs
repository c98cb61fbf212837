//! What happened: a list, or a stream.

use crate::{
    admin::{
        call::{Call, Reply, Shared},
        error::ApiError,
        follow::{CONTENT_TYPE, follow},
        query::Query,
        wire::{EventJson, EventsJson},
    },
    events::{EventLog, Since},
};
use http_body_util::BodyExt;
use hyper::StatusCode;

pub(super) fn events(shared: &Shared, call: &Call) -> Result<Reply, ApiError> {
    let query = Query::parse(&call.query, &["since", "from", "follow"])?;
    let log = shared.operations.events();
    let since = since(&query, &log)?;
    let stream = match query.get("follow") {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => {
            return Err(ApiError::field("follow", format!("`{}`: use true or false", short(other))));
        }
    };
    if stream {
        let most = EventLog::FOLLOWERS;
        // Whoever says nothing else hears only what comes.
        let body = follow(&log, since.unwrap_or(Since::Number(log.newest())), shared.stop.clone());
        let body = body.ok_or_else(|| {
            ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("{most} clients follow the events already"),
            )
            .fix("end one of them, or ask without follow")
        })?;
        return Ok(Reply { status: StatusCode::OK, content_type: CONTENT_TYPE, body: body.boxed_unsync() });
    }
    // Without `since`, everything that is kept was asked for, and nothing of it is missing.
    let newest = log.newest();
    let page = log.since(since.unwrap_or(Since::Number(0)));
    let missed = since.map_or(0, |_| page.missed);
    let newest = page.events.last().map_or(newest, |e| e.seq);
    let events = page.events.iter().map(|e| EventJson::new(e)).collect();
    Ok(Reply::json(StatusCode::OK, &EventsJson { newest, missed, events }))
}

fn since(query: &Query, log: &EventLog) -> Result<Option<Since>, ApiError> {
    let number = |name: &str| {
        let parsed = query.get(name).map(|text| {
            text.parse::<u64>().map_err(|_| {
                let text = format!(
                    "`{}` is no number: use {}",
                    short(text),
                    match name {
                        "since" => "the number of an event, or 0 for all",
                        _ => "Unix time in milliseconds",
                    }
                );
                ApiError::field(name, text)
            })
        });
        parsed.transpose()
    };
    match (number("since")?, number("from")?) {
        (Some(_), Some(_)) => Err(ApiError::field("from", "`since` and `from` exclude each other")),
        (Some(seq), None) if seq > log.newest() => {
            let text = format!("{seq} is beyond the newest event, {}", log.newest());
            Err(ApiError::field("since", text)
                .fix("the agent was restarted since, and numbers begin anew: ask since=0"))
        }
        (Some(seq), None) => Ok(Some(Since::Number(seq))),
        (None, Some(at)) => Ok(Some(Since::Time(at))),
        (None, None) => Ok(None),
    }
}

fn short(text: &str) -> String {
    text.chars().take(60).collect()
}
