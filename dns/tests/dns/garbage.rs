//! Whatever arrives, the server goes on.

use crate::{
    answers::options,
    client::{Server, query},
    mesh,
};
use hickory_proto::{op::Message, rr::RecordType};
use mesh_dns::{DnsView, Limits, Question, answer};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpStream, UdpSocket},
};

const SEED: u64 = 0x0d45;

/// A query with some octets changed, or none of it left.
pub(crate) fn packet(rng: &mut StdRng) -> Vec<u8> {
    const NAMES: [&str; 6] = [
        "web.cluster",
        "tasks.web.cluster",
        "_http._tcp.web.cluster",
        "1.0.96.10.in-addr.arpa",
        "x.y.z",
        ".",
    ];
    const TYPES: [RecordType; 6] = [
        RecordType::A,
        RecordType::SRV,
        RecordType::ANY,
        RecordType::AXFR,
        RecordType::PTR,
        RecordType::Unknown(65_400),
    ];
    if rng.random_range(0..4) == 0 {
        let mut noise = vec![0u8; rng.random_range(0..1500)];
        rng.fill(&mut noise[..]);
        return noise;
    }
    let payload = rng.random::<bool>().then(|| rng.random());
    let mut bytes = query(NAMES[rng.random_range(0..6)], TYPES[rng.random_range(0..6)], payload);
    for _ in 0..rng.random_range(0..6) {
        let at = rng.random_range(0..bytes.len());
        match rng.random_range(0..3) {
            0 => bytes[at] = rng.random(),
            1 => bytes[at] ^= 1 << rng.random_range(0..8),
            _ => bytes.truncate(at.max(1)),
        }
    }
    bytes
}

#[test]
fn every_question_that_can_be_read_has_an_answer_that_can_be_written() {
    eprintln!("seed {SEED:#x}");
    let mut rng = StdRng::seed_from_u64(SEED);
    let view = DnsView::new(&mesh::example());
    let mut read = 0;
    for _ in 0..30_000 {
        let Ok(message) = Message::from_vec(&packet(&mut rng)) else { continue };
        for asked in &message.queries {
            read += 1;
            let question =
                Question::new(asked.name().clone(), asked.query_type()).in_class(asked.query_class());
            if let Some(found) = answer(&view, &question, rng.random(), &options()) {
                let mut reply = Message::query();
                reply.answers = found.answers;
                reply.authorities = found.authority;
                reply.additionals = found.additional;
                reply.to_vec().unwrap();
            }
        }
    }
    assert!(read > 5_000, "only {read} packets were questions: the test has lost its point");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_live_server_outlives_it() {
    eprintln!("seed {SEED:#x}");
    let mut rng = StdRng::seed_from_u64(SEED);
    let server = Server::start(mesh::example(), &[], Limits::default()).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server.at()).await.unwrap();
    for round in 0..200 {
        for _ in 0..50 {
            socket.send(&packet(&mut rng)).await.unwrap();
        }
        let mut stream = TcpStream::connect(server.at()).await.unwrap();
        let bytes = packet(&mut rng);
        let length = if rng.random() { u16::try_from(bytes.len()).unwrap() } else { rng.random() };
        // The server may hang up in the middle, which is its right.
        let _ = stream.write_all(&[&length.to_be_bytes()[..], &bytes].concat()).await;
        let found = server.ask("web.cluster", RecordType::A).await;
        assert_eq!(found.answers.len(), 1, "round {round}");
    }
}
