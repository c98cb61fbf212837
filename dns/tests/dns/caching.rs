//! The cache of other names, and questions asked at once.

use crate::{
    client::{PATIENCE, Server, data, query, tcp, udp, udp_octets},
    mesh,
    upstreams::{Upstream, code, found, good, is_probe, reply},
};
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::A},
};
use mesh_dns::Limits;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::{TcpStream, UdpSocket},
    task::JoinSet,
    time::timeout,
};

#[tokio::test]
async fn a_second_question_is_answered_from_the_cache_over_udp_and_tcp() {
    let upstream = Upstream::start(good).await;
    let server = Server::start(mesh::example(), &[upstream.at], Limits::default()).await;
    for name in ["www.example.org", "WWW.Example.org"] {
        let answer = server.ask(name, RecordType::A).await;
        assert_eq!(data(&answer), ["192.0.2.1"]);
        assert_eq!(answer.queries[0].name().to_ascii(), format!("{name}."), "the case is the client's");
        let mut stream = TcpStream::connect(server.at()).await.unwrap();
        let answer = tcp(&mut stream, &query(name, RecordType::A, Some(1232))).await.unwrap();
        assert_eq!((data(&answer), answer.edns.is_some()), (vec!["192.0.2.1".to_owned()], true));
    }
    let explained = server.handle.query("www.example.org.", "A").await.unwrap();
    assert_eq!(explained.upstream.as_deref(), Some("cache"));
    assert_eq!(upstream.asked(), 1);
    let hits = |kind| server.metric("mesh_dns_cache_hits_total", &[("type", kind)]);
    assert_eq!((hits("success"), hits("denial")), (4, 0));
    assert_eq!(server.metric("mesh_dns_cache_misses_total", &[]), 1);
    assert_eq!(server.metric("mesh_dns_cache_entries", &[]), 1);
    assert!(server.metric("mesh_dns_cache_bytes", &[]) > 0);
    // Our own names are never kept.
    for name in ["web.cluster", "nobody.cluster"] {
        server.ask(name, RecordType::A).await;
    }
    assert_eq!(server.metric("mesh_dns_cache_entries", &[]), 1);
    // Another type is another question.
    server.ask("www.example.org", RecordType::AAAA).await;
    assert_eq!(upstream.asked(), 2);
}

#[tokio::test]
async fn what_is_not_final_is_asked_again() {
    for rcode in [ResponseCode::ServFail, ResponseCode::Refused, ResponseCode::NXDomain] {
        // The NXDOMAIN is one without SOA, which says not how long.
        let upstream = Upstream::start(move |m: &Message| vec![code(m, rcode)]).await;
        let server = Server::start(mesh::example(), &[upstream.at], Limits::default()).await;
        for _ in 0..2 {
            assert_eq!(server.ask("example.org", RecordType::A).await.metadata.response_code, rcode);
        }
        assert_eq!(upstream.asked(), 2, "{rcode}");
        assert_eq!(server.metric("mesh_dns_cache_entries", &[]), 0);
    }
}

/// Of what a liar sends only the reply to the question is passed on, and only that is kept.
#[tokio::test]
async fn what_does_not_fit_is_never_kept() {
    let upstream = Upstream::start(|m: &Message| {
        let mut spoofed = m.clone();
        spoofed.metadata.id = m.metadata.id.wrapping_add(1);
        let mut wrong = m.clone();
        wrong.queries[0].set_name(Name::from_ascii("other.example.").unwrap());
        vec![found(&spoofed, [6; 4]), found(&wrong, [6; 4]), found(m, [192, 0, 2, 1])]
    })
    .await;
    let server = Server::start(mesh::example(), &[upstream.at], Limits::default()).await;
    for name in ["example.org", "example.org", "other.example", "other.example"] {
        assert_eq!(data(&server.ask(name, RecordType::A).await), ["192.0.2.1"], "{name}");
    }
    assert_eq!(upstream.asked(), 2);
}

/// An upstream whose answers may be kept for a second, until it is told to do `otherwise`.
async fn until_told(
    otherwise: impl Fn(&Message) -> Vec<Vec<u8>> + Send + 'static,
) -> (Upstream, Arc<AtomicBool>) {
    let told = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&told);
    let upstream = Upstream::start(move |m: &Message| {
        if switch.load(Ordering::Relaxed) {
            return otherwise(m);
        }
        let mut answer = reply(m);
        let owner = m.queries[0].name().clone();
        answer.answers = vec![Record::from_rdata(owner, 1, RData::A(A::new(192, 0, 2, 1)))];
        vec![answer.to_vec().unwrap()]
    })
    .await;
    (upstream, told)
}

/// RFC 8767: an expired answer is better than none, and only than none.
#[tokio::test]
async fn when_nobody_answers_an_expired_answer_is_given() {
    let (upstream, dead) = until_told(|_| Vec::new()).await;
    let limits = Limits {
        forward_try: Duration::from_millis(300),
        forward_total: Duration::from_millis(600),
        ..Limits::default()
    };
    let server = Server::start(mesh::example(), &[upstream.at], limits).await;
    assert_eq!(server.ask("example.org", RecordType::A).await.answers[0].ttl, 1);
    dead.store(true, Ordering::Relaxed);
    let stale = async {
        loop {
            let answer = server.ask("example.org", RecordType::A).await;
            assert_eq!(data(&answer), ["192.0.2.1"], "fresh or not, there is one");
            if answer.answers[0].ttl == 30 {
                return;
            }
        }
    };
    timeout(PATIENCE, stale).await.expect("it expires");
    assert!(server.metric("mesh_dns_cache_served_stale_total", &[]) >= 1);
    let unknown = server.ask("example.net", RecordType::A).await;
    assert_eq!(unknown.metadata.response_code, ResponseCode::ServFail);
}

/// SERVFAIL says nothing of the name (RFC 8767 section 4), so it does not take the place of what was known; REFUSED is
/// the upstream's own word and does. Clients with EDNS are told why (RFC 8914 section 4.4), and each is counted.
#[tokio::test]
async fn servfail_of_all_upstreams_brings_the_expired_answer_and_refused_does_not() {
    for (says, stale) in [(ResponseCode::ServFail, true), (ResponseCode::Refused, false)] {
        let (one, broken) = until_told(move |m| vec![code(m, says)]).await;
        let other = Upstream::start(move |m: &Message| vec![code(m, ResponseCode::ServFail)]).await;
        // The other one is asked only after SERVFAIL.
        let server = Server::start(mesh::example(), &[one.at, other.at], Limits::default()).await;
        let packet = query("example.org", RecordType::A, Some(1232));
        let ask = || async { udp_octets(server.at(), &packet).await.unwrap() };
        assert_eq!(data(&Message::from_vec(&ask().await).unwrap()), ["192.0.2.1"]);
        assert_eq!(server.metric("mesh_dns_cache_served_stale_total", &[]), 0);
        broken.store(true, Ordering::Relaxed);
        let expired = async {
            loop {
                let octets = ask().await;
                let answer = Message::from_vec(&octets).unwrap();
                if answer.metadata.response_code != ResponseCode::NoError || answer.answers[0].ttl == 30 {
                    return (octets, answer);
                }
            }
        };
        let (octets, answer) = timeout(PATIENCE, expired).await.expect("it expires");
        // "Stale Answer", without text, as the last option of all.
        assert_eq!(octets.ends_with(&[0, 15, 0, 2, 0, 3]), stale, "{says}");
        assert_eq!(server.metric("mesh_dns_cache_served_stale_total", &[]) > 0, stale, "{says}");
        match stale {
            true => assert_eq!(data(&answer), ["192.0.2.1"]),
            false => assert_eq!(answer.metadata.response_code, says),
        }
        let never = server.ask("example.net", RecordType::A).await;
        assert_eq!(never.metadata.response_code, says, "nothing was known of it");
    }
}

#[tokio::test]
async fn equal_questions_at_once_ask_the_upstream_once() {
    const CLIENTS: u16 = 20;
    let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    // However long it takes until all of them have asked.
    let limits = Limits { forward_try: PATIENCE, forward_total: 2 * PATIENCE, ..Limits::default() };
    let server = Server::start(mesh::example(), &[upstream.local_addr().unwrap()], limits).await;
    let mut clients = JoinSet::new();
    for id in 0..CLIENTS {
        let name = if id % 2 == 0 { "www.example.org" } else { "www.EXAMPLE.org" };
        let mut packet = query(name, RecordType::A, None);
        packet[..2].copy_from_slice(&id.to_be_bytes());
        let at = server.at();
        clients.spawn(async move { (id, name, udp(at, &packet).await.unwrap()) });
    }
    let all_wait = async {
        while server.metric("mesh_dns_forward_coalesced_total", &[]) < u64::from(CLIENTS) - 1 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, all_wait).await.expect("all but one wait for that one");
    let mut buffer = [0u8; 4096];
    let mut answered = 0;
    while answered == 0 || !clients.is_empty() {
        tokio::select! {
            received = upstream.recv_from(&mut buffer) => {
                let (length, from) = received.unwrap();
                let asked = Message::from_vec(&buffer[..length]).unwrap();
                answered += usize::from(!is_probe(&asked));
                upstream.send_to(&found(&asked, [192, 0, 2, 1]), from).await.unwrap();
            }
            Some(client) = clients.join_next() => {
                let (id, name, answer) = client.unwrap();
                assert_eq!((answer.metadata.id, data(&answer)), (id, vec!["192.0.2.1".to_owned()]));
                assert_eq!(answer.queries[0].name().to_ascii(), format!("{name}."));
            }
        }
    }
    assert_eq!(answered, 1);
    assert_eq!(server.metric("mesh_dns_cache_misses_total", &[]), u64::from(CLIENTS));
}
