//! `GET /v1/events` and `mesh-agent events`, as a list and as a stream.

use crate::{
    fake::EVENTS,
    world::{LONG, World, read_all},
};
use mesh_agent::events::{EventLog, Kind, News};
use serde_json::{Value, json};
use std::process::Stdio;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    net::UnixStream,
    process::{Child, ChildStdout, Command},
    time::timeout,
};

impl World {
    /// So many things happen at once, a second after the other kind.
    pub(crate) fn happens(&self, count: u64) {
        self.fake.turn(|k| {
            let first = k.events.newest();
            let news = (1..=count).map(|i| News::new(Kind::NodeDown, format!("n{}", first + i), "is gone"));
            k.events.add(1_000_000 + first * 1000, 7, news);
        });
    }

    async fn numbers(&self, query: &str) -> (u64, u64, Vec<u64>) {
        let json = self.get(&format!("/v1/events{query}")).await.json();
        let number = |v: &Value| v.as_u64().unwrap();
        let seqs = json["events"].as_array().unwrap().iter().map(|e| number(&e["seq"])).collect();
        (number(&json["newest"]), number(&json["missed"]), seqs)
    }

    /// A stream, with its head read.
    async fn follow(&self, query: &str) -> Lines<BufReader<UnixStream>> {
        let mut stream = self.unix().await;
        let request = format!("GET /v1/events?follow=true{query} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut lines = BufReader::new(stream).lines();
        let mut head = String::new();
        loop {
            let line = timeout(LONG, lines.next_line()).await.unwrap().unwrap().unwrap();
            if line.is_empty() {
                break;
            }
            head += &(line + "\n");
        }
        assert!(
            head.starts_with("HTTP/1.1 200") && head.contains("content-type: application/x-ndjson"),
            "{head}"
        );
        lines
    }
}

/// The next line of JSON; chunk sizes, ends of chunks and empty lines left out.
async fn next(lines: &mut Lines<BufReader<UnixStream>>) -> Option<Value> {
    loop {
        let line = timeout(LONG, lines.next_line()).await.expect("the stream is silent").unwrap()?;
        if line.starts_with('{') {
            return Some(serde_json::from_str(&line).unwrap());
        }
    }
}

#[tokio::test]
async fn the_list_says_what_is_forgotten() {
    let world = World::start().await;
    assert_eq!(world.numbers("").await, (0, 0, vec![]));
    world.happens(3);
    let event = &world.get("/v1/events?since=2").await.json()["events"][0];
    let want = json!({"seq": 3, "at": 1_000_000, "revision": 7, "kind": "node-down", "trouble": true,
        "subject": "n3", "text": "is gone"});
    assert_eq!(*event, want);
    for _ in 0..7 {
        world.happens(1);
    }
    assert_eq!(EVENTS, 8);
    let kept: Vec<u64> = (3..=10).collect();
    assert_eq!(world.numbers("").await, (10, 0, kept.clone()), "all that is kept was asked for");
    assert_eq!(world.numbers("?since=0").await, (10, 2, kept.clone()));
    assert_eq!(world.numbers("?since=1&follow=false").await, (10, 1, kept.clone()));
    assert_eq!(world.numbers("?since=8").await, (10, 0, vec![9, 10]));
    assert_eq!(world.numbers("?since=10").await, (10, 0, vec![]));
    assert_eq!(world.numbers("?from=1009000").await, (10, 0, vec![10]));
    assert_eq!(world.numbers("?from=1000000").await, (10, 2, kept));
    assert_eq!(world.numbers("?from=18446744073709551615").await, (10, 0, vec![]));
}

#[tokio::test]
async fn bad_questions_name_the_parameter() {
    let world = World::start().await;
    for (query, field) in [
        ("since=x", "since"),
        ("since=-1", "since"),
        ("since=1", "since"),
        ("from=2026", ""),
        ("from=1h", "from"),
        ("since=0&from=0", "from"),
        ("follow=yes", "follow"),
        ("until=3", "until"),
    ] {
        let heard = world.get(&format!("/v1/events?{query}")).await;
        if field.is_empty() {
            assert_eq!(heard.status, 200, "{query}");
        } else {
            assert_eq!((heard.status, heard.json()["field"].as_str()), (400, Some(field)), "{query}");
        }
    }
    let beyond = world.get("/v1/events?follow=true&since=1").await;
    assert!(beyond.json()["fix"].as_str().unwrap().contains("restarted"), "{beyond:?}");
}

#[tokio::test]
async fn a_stream_goes_on_and_ends_with_the_agent() {
    let world = World::start().await;
    world.happens(10);
    let mut all = world.follow("&since=0").await;
    let mut fresh = world.follow("").await;
    assert_eq!(next(&mut all).await, Some(json!({"missed": 2})));
    for seq in 3..=10 {
        assert_eq!(next(&mut all).await.unwrap()["seq"], seq);
    }
    for round in 11..=14 {
        world.happens(1);
        for stream in [&mut all, &mut fresh] {
            let event = next(stream).await.unwrap();
            assert_eq!((&event["seq"], &event["subject"]), (&json!(round), &json!(format!("n{round}"))));
        }
    }
    let World { admin, .. } = world;
    let stop = tokio::spawn(admin.shutdown());
    for stream in [&mut all, &mut fresh] {
        assert_eq!(next(stream).await, Some(json!({"end": "the agent stops", "slow": false})));
        assert_eq!(next(stream).await, None);
    }
    timeout(LONG, stop).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_reader_that_was_passed_over_is_told_and_dropped() {
    let world = World::start().await;
    let mut stream = world.follow("").await;
    world.happens(1);
    assert_eq!(next(&mut stream).await.unwrap()["seq"], 1);
    // More at once than are kept: nobody can have read them all.
    world.happens(20);
    let end = next(&mut stream).await.unwrap();
    assert_eq!(end["slow"], true);
    assert_eq!(end["end"], "read too slowly: 12 events after number 1 are forgotten; the others are kept");
    assert_eq!(next(&mut stream).await, None);
}

#[tokio::test]
async fn a_reader_that_reads_nothing_is_dropped_and_holds_no_memory() {
    let world =
        World::with(|config| config.limits.write_timeout = std::time::Duration::from_millis(200)).await;
    let mut stream = world.follow("").await.into_inner();
    let log = world.fake.0.lock().unwrap().events.clone();
    // All places are taken, until the socket is full and the server gives up on it.
    let mut others = Vec::new();
    while others.len() < EventLog::FOLLOWERS - 1 {
        others.extend(log.follow(0));
    }
    let deadline = tokio::time::Instant::now() + LONG;
    loop {
        let text = "x".repeat(News::MOST);
        log.add(1, 1, (0..4).map(|_| News::new(Kind::NodeUp, text.clone(), text.clone())));
        if log.follow(0).is_some() {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "the stalled reader keeps its place");
        tokio::task::yield_now().await;
    }
    let mut bytes = Vec::new();
    let _ = timeout(LONG, stream.read_to_end(&mut bytes)).await.unwrap();
    assert!(bytes.len() < 4 << 20, "{} bytes were made for a reader of none", bytes.len());
}

#[tokio::test]
async fn followers_are_bounded() {
    let world = World::start().await;
    let log = world.fake.0.lock().unwrap().events.clone();
    let places: Vec<_> = (0..EventLog::FOLLOWERS).map(|_| log.follow(0).unwrap()).collect();
    let heard = world.get("/v1/events?follow=true").await;
    assert_eq!(heard.status, 503);
    assert!(heard.json()["error"].as_str().unwrap().contains("32 clients"), "{heard:?}");
    assert_eq!(world.get("/v1/events").await.status, 200, "a list needs no place");
    drop(places);
    drop(world.follow("").await);
}

#[tokio::test]
async fn the_head_of_a_stream_is_an_answer_of_its_own() {
    let world = World::start().await;
    let mut stream = world.unix().await;
    let request = "HEAD /v1/events?follow=true HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let head = read_all(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
}

#[tokio::test]
async fn the_command_prints_a_line_an_event() {
    let world = World::start().await;
    world.happens(2);
    assert_eq!(
        world.good("events").await,
        "1970-01-01T00:16:40.000Z     1  node-down              n1                is gone\n\
         1970-01-01T00:16:40.000Z     2  node-down              n2                is gone\n"
    );
    world.happens(8);
    let text = world.good("events --since 1").await;
    assert!(text.starts_with("(1 earlier events are forgotten)\n") && text.lines().count() == 9, "{text}");
    assert_eq!(world.good("events --since 10").await, "");
    assert_eq!(world.good("events --since 1m").await, "", "all of it was long ago");
    assert_eq!(world.good("events --since 1970-01-01T00:16:42Z").await.lines().count(), 8);
    let json = world.good("events --since 9 --json").await;
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["subject"], "n10");
    let json = world.good("events --since 0 --json").await;
    assert_eq!(json.lines().next(), Some(r#"{"missed":2}"#));
    let beyond = world.cli("events --since 99").await;
    assert!(beyond.code == 65 && beyond.err.contains("restarted"), "{beyond:?}");
}

/// `mesh-agent events --follow …`, running.
struct Following {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Following {
    fn start(world: &World, arguments: &[&str]) -> Following {
        let mut child = Command::new(env!("CARGO_BIN_EXE_mesh-agent"))
            .args(["events", "--follow"])
            .args(arguments)
            .env_clear()
            // Overruled by --admin.
            .env("MESH_ADMIN", format!("unix:{}", world.socket().display()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Following { child, lines }
    }

    async fn line(&mut self) -> Option<String> {
        timeout(LONG, self.lines.next_line()).await.expect("no line").unwrap()
    }

    /// Its end: exit code and what it said on stderr.
    async fn end(mut self) -> (Option<i32>, String) {
        assert_eq!(self.line().await, None);
        let error = read_all(self.child.stderr.as_mut().unwrap()).await;
        (timeout(LONG, self.child.wait()).await.unwrap().unwrap().code(), error)
    }
}

#[tokio::test]
async fn the_command_follows_until_the_agent_stops() {
    let world = World::start().await;
    world.happens(1);
    let mut people = Following::start(&world, &["--since", "0"]);
    let mut programs = Following::start(&world, &["--since", "0", "--json"]);
    for seq in 1..=3 {
        let line = people.line().await.unwrap();
        assert!(line.ends_with("is gone") && line.contains(&format!(" {seq}  node-down ")), "{line}");
        let event: Value = serde_json::from_str(&programs.line().await.unwrap()).unwrap();
        assert_eq!(event["seq"], seq);
        world.happens(1);
    }
    for following in [&mut people, &mut programs] {
        following.line().await.unwrap();
    }
    let World { admin, .. } = world;
    let stop = tokio::spawn(admin.shutdown());
    let last = programs.line().await;
    assert_eq!(last.as_deref(), Some(r#"{"end":"the agent stops","slow":false}"#));
    for following in [people, programs] {
        assert_eq!(following.end().await, (Some(69), "mesh-agent: the agent stops\n".to_owned()));
    }
    timeout(LONG, stop).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_command_says_that_it_was_too_slow_or_cut_off() {
    let world = World::start().await;
    world.happens(1);
    let mut slow = Following::start(&world, &["--since", "0"]);
    slow.line().await.unwrap();
    world.happens(20);
    let (code, error) = slow.end().await;
    assert!(code == Some(75) && error.contains("12 events after number 1 are forgotten"), "{code:?} {error}");

    // An agent that is killed: the answer breaks off, or ends between two lines.
    for (last, want) in [("", "broke the answer off"), ("0\r\n\r\n", "the agent ended without a word")] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let admin = format!("http://{}", listener.local_addr().unwrap());
        let agent = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\ne\r\n{\"missed\": 3}\n\r\n";
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                asked.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(format!("{head}{last}").as_bytes()).await.unwrap();
        });
        let mut cut = Following::start(&world, &["--admin", &admin]);
        assert_eq!(cut.line().await.as_deref(), Some("(3 earlier events are forgotten)"));
        agent.await.unwrap();
        let (code, error) = cut.end().await;
        assert!(code == Some(69) && error.contains(want), "{code:?} {error}");
    }
}
