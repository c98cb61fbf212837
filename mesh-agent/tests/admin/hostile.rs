//! Clients that are slow, large, many or mad: all of them leave the others served.

use crate::world::{Heard, LONG, World, ask, read_all};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

async fn is_served(world: &World) {
    assert_eq!(world.get("/v1/status").await.status, 200);
    assert_eq!(ask(world.tcp().await, "GET", "/livez", "", "").await.status, 200);
}

#[tokio::test]
async fn a_body_of_100_mb_is_refused_before_it_is_read() {
    let world = World::start().await;
    let mut stream = world.tcp().await;
    let head = "PUT /v1/services HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    // Not a byte of the body is sent, and the answer is there.
    let heard = Heard::parse(&read_all(&mut stream).await);
    assert_eq!(heard.status, 413, "{heard:?}");
    assert!(heard.head.contains("connection: close"), "{heard:?}");
    assert!(heard.json()["fix"].is_string());
    is_served(&world).await;
    assert!(world.fake.log().is_empty());
}

#[tokio::test]
async fn a_client_that_sends_100_mb_all_the_same_hears_why_not() {
    let world = World::start().await;
    for head in ["Content-Length: 100000000", "Transfer-Encoding: chunked"] {
        let (mut read, mut write) = world.tcp().await.into_split();
        let head = format!("PUT /v1/services HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n");
        let chunked = head.contains("chunked");
        let sender = tokio::spawn(async move {
            let block = vec![b' '; 1_000_000];
            write.write_all(head.as_bytes()).await?;
            for _ in 0..100 {
                if chunked {
                    write.write_all(format!("{:x}\r\n", block.len()).as_bytes()).await?;
                }
                write.write_all(&block).await?;
                if chunked {
                    write.write_all(b"\r\n").await?;
                }
            }
            Ok::<_, std::io::Error>(())
        });
        let busy = world.get("/v1/services").await;
        assert_eq!(busy.status, 200, "others are served meanwhile");
        let heard = Heard::parse(&read_all(&mut read).await);
        assert_eq!(heard.status, 413, "{heard:?}");
        // The server reads no further for long: the sender is stopped, or its bytes went nowhere.
        let _ = timeout(LONG, sender).await.expect("the sender hangs");
        is_served(&world).await;
    }
    assert!(world.fake.log().is_empty());
}

#[tokio::test]
async fn a_body_up_to_the_limit_is_taken() {
    let world = World::start().await;
    let limit = 1 << 20;
    assert_eq!(world.send("PUT", "/v1/services", &" ".repeat(limit)).await.status, 200);
    assert_eq!(world.send("PUT", "/v1/services", &" ".repeat(limit + 1)).await.status, 413);
    assert_eq!(world.fake.log().len(), 1);
}

#[tokio::test]
async fn slow_clients_are_dropped_and_others_served() {
    let world = World::with(|c| {
        c.limits.header_timeout = Duration::from_millis(300);
        c.limits.body_timeout = Duration::from_millis(300);
    })
    .await;
    let mut silent = world.tcp().await;
    let mut half_head = world.tcp().await;
    half_head.write_all(b"GET /v1/status HTTP/1.1\r\nHost: loc").await.unwrap();
    let mut half_body = world.tcp().await;
    let head = "PUT /v1/services HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nser";
    half_body.write_all(head.as_bytes()).await.unwrap();
    let mut idle = world.unix().await;
    idle.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    is_served(&world).await;

    assert!(read_all(&mut idle).await.starts_with("HTTP/1.1 200"), "served once, then closed for idling");
    let heard = Heard::parse(&read_all(&mut half_body).await);
    assert_eq!(heard.status, 408, "{heard:?}");
    // These two end without a useful answer; that they end is what matters.
    read_all(&mut silent).await;
    read_all(&mut half_head).await;
    is_served(&world).await;
    assert!(world.fake.log().is_empty());
}

#[tokio::test]
async fn too_many_connections_are_told_so() {
    let world = World::with(|c| c.limits.connections = 3).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut stream = world.tcp().await;
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        held.push(stream);
    }
    let refused = Heard::parse(&read_all(&mut world.tcp().await).await);
    assert_eq!((refused.status, refused.json()["error"].as_str()), (503, Some("too many connections")));
    // Each listener has its own share.
    assert_eq!(world.get("/v1/status").await.status, 200);
    drop(held);
    let end = tokio::time::Instant::now() + LONG;
    loop {
        let mut stream = world.tcp().await;
        let request = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let _ = stream.write_all(request).await;
        if read_all(&mut stream).await.starts_with("HTTP/1.1 200") {
            break;
        }
        assert!(tokio::time::Instant::now() < end, "the places were never given back");
    }
}

#[tokio::test]
async fn scrapers_are_fewer() {
    let world = World::start().await;
    let mut held = Vec::new();
    for _ in 0..16 {
        let mut stream = world.metrics().await;
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        held.push(stream);
    }
    assert_eq!(Heard::parse(&read_all(&mut world.metrics().await).await).status, 503);
    is_served(&world).await;
}

#[tokio::test]
async fn garbage_is_answered_or_dropped() {
    let world = World::start().await;
    let seed = 0x5eed_ad31_u64;
    eprintln!("seed {seed:#x}");
    let mut state = seed;
    let mut random = move || {
        // xorshift64, Marsaglia 2003.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let starts: [&[u8]; 6] = [
        b"",
        b"GET ",
        b"GET /v1/services/%00%ff HTTP/1.1\r\nHost: localhost\r\n",
        b"PUT /v1/services HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\nContent-Length: 11\r\n\r\n",
        b"POST /v1/services/web/publish HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ];
    for round in 0..120 {
        let mut bytes = starts[round % starts.len()].to_vec();
        for _ in 0..random() % 600 {
            bytes.extend_from_slice(&random().to_le_bytes()[..1]);
        }
        let mut stream = world.tcp().await;
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        read_all(&mut stream).await;
    }
    is_served(&world).await;
    assert!(world.fake.log().is_empty(), "{:?}", world.fake.log());
}

#[tokio::test]
async fn headers_are_limited() {
    let world = World::start().await;
    let long = format!("X-Long: {}\r\n", "a".repeat(64 << 10));
    assert_eq!(ask(world.tcp().await, "GET", "/livez", &long, "").await.status, 431);
    let many: String = (0..200).map(|i| format!("X-{i}: 1\r\n")).collect();
    assert_eq!(ask(world.tcp().await, "GET", "/livez", &many, "").await.status, 431);
    is_served(&world).await;
}

#[tokio::test]
async fn a_part_that_hangs_or_panics_takes_only_its_own_request() {
    let world = World::with(|c| c.limits.answer_timeout = Duration::from_millis(200)).await;
    world.fake.turn(|k| k.hung = true);
    let heard = world.get("/v1/services/web").await;
    assert_eq!(heard.status, 503, "{heard:?}");
    is_served(&world).await;
    world.fake.turn(|k| {
        k.hung = false;
        k.panics = true;
    });
    let mut stream = world.unix().await;
    stream.write_all(b"GET /v1/endpoints HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    assert_eq!(read_all(&mut stream).await, "", "the connection is closed");
    is_served(&world).await;
}
