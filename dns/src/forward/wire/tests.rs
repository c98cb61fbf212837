use super::*;
use crate::{
    fuzz::{fuzz, packets},
    packet::SAFE_UDP,
};
use hickory_proto::{
    op::{Edns, Message, Metadata, OpCode, Query, update_message},
    rr::{
        Name, RData, Record as Rr, RecordType,
        rdata::{A, CNAME, NS, SOA as Soa},
    },
};

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

pub(crate) fn query(text: &str, kind: RecordType, edns: bool) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.id = 7;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name(text), kind));
    if edns {
        let mut edns = Edns::new();
        edns.set_max_payload(4096);
        message.edns = Some(edns);
    }
    message.to_vec().unwrap()
}

fn a(ttl: u32) -> Rr {
    Rr::from_rdata(name("www.example."), ttl, RData::A(A::new(192, 0, 2, 1)))
}

fn soa(ttl: u32, minimum: u32) -> Rr {
    let soa = Soa::new(name("ns.example."), name("root.example."), 1, 2, 3, 4, minimum);
    Rr::from_rdata(name("example."), ttl, RData::SOA(soa))
}

/// A reply to `www.example A`, with these sections.
pub(crate) fn reply(rcode: ResponseCode, answers: Vec<Rr>, authority: Vec<Rr>, edns: bool) -> Message {
    let mut message = Message::from_vec(&query("www.example.", RecordType::A, edns)).unwrap();
    message.metadata = Metadata::response_from_request(&message.metadata);
    message.metadata.response_code = rcode;
    message.metadata.authoritative = true;
    message.answers = answers;
    message.authorities = authority;
    message
}

fn kept(message: &Message) -> Option<(u32, bool)> {
    Kept::of(&message.to_vec().unwrap()).map(|kept| (kept.ttl, kept.negative))
}

#[test]
fn how_long_a_reply_is_kept() {
    use ResponseCode::{NXDomain, NoError, Refused, ServFail};
    let ns = |ttl| Rr::from_rdata(name("example."), ttl, RData::NS(NS(name("ns.example."))));
    let alias = Rr::from_rdata(name("www.example."), 300, RData::CNAME(CNAME(name("gone.example."))));
    for (why, message, expected) in [
        ("the least TTL", reply(NoError, vec![a(60), a(30)], vec![ns(90)], false), Some((30, false))),
        ("of all sections", reply(NoError, vec![a(60)], vec![ns(9)], true), Some((9, false))),
        ("a day", reply(NoError, vec![a(1 << 30)], vec![], false), Some((86_400, false))),
        ("TTL 0", reply(NoError, vec![a(60), a(0)], vec![], false), None),
        ("a negative TTL", reply(NoError, vec![a(1 << 31)], vec![], false), None),
        ("NXDOMAIN: the SOA's minimum", reply(NXDomain, vec![], vec![soa(600, 20)], false), Some((20, true))),
        ("NXDOMAIN: the SOA's TTL", reply(NXDomain, vec![], vec![soa(15, 600)], true), Some((15, true))),
        ("no data", reply(NoError, vec![], vec![soa(600, 25)], false), Some((25, true))),
        ("an alias to no data", reply(NoError, vec![alias], vec![soa(600, 25)], false), Some((25, true))),
        ("an hour", reply(NXDomain, vec![], vec![soa(86_400, 86_400)], false), Some((3_600, true))),
        ("the SOA asked for", reply(NoError, vec![soa(600, 20)], vec![], false), Some((600, false))),
        ("NXDOMAIN without SOA", reply(NXDomain, vec![], vec![], false), None),
        ("no data without SOA, a referral", reply(NoError, vec![], vec![ns(60)], false), None),
        ("SERVFAIL", reply(ServFail, vec![], vec![soa(60, 60)], false), None),
        ("REFUSED", reply(Refused, vec![a(60)], vec![], false), None),
    ] {
        assert_eq!(kept(&message), expected, "{why}");
    }
    let mut truncated = reply(NoError, vec![a(60)], vec![], false);
    truncated.metadata.truncation = true;
    assert_eq!(kept(&truncated), None, "TC");
    let whole = reply(NoError, vec![a(60)], vec![], false).to_vec().unwrap();
    assert!(Kept::of(&whole).is_some());
    assert!(
        Kept::of(&whole[..whole.len() - 1]).is_none() && Kept::of(&[&whole[..], b"x"].concat()).is_none()
    );
}

#[test]
fn only_plain_questions_are_for_the_cache() {
    let plain = query("www.example.", RecordType::A, false);
    let changed = |at: usize, to: u8| {
        let mut query = plain.clone();
        query[at] = to;
        query
    };
    assert!(Asked::read(&plain).is_some());
    let end = plain.len();
    for (why, query) in [
        ("RD is off", changed(2, 0)),
        ("a response", changed(2, 0x81)),
        ("another opcode", changed(2, 0x11)),
        ("two questions", changed(5, 2)),
        ("an answer", changed(7, 1)),
        ("ANY", changed(end - 3, 255)),
        ("AXFR", changed(end - 3, 252)),
        ("an octet more", [&plain[..], b"x"].concat()),
        ("no OPT where one is announced", changed(11, 1)),
    ] {
        assert!(Asked::read(&query).is_none(), "{why}");
    }
    let with_option = |code: u8| {
        let mut query = changed(11, 1);
        query.extend([0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 6, 0, code, 0, 2, 1, 2]);
        Asked::read(&query).is_some()
    };
    assert!(with_option(10) && with_option(12), "a cookie, padding");
    assert!(!with_option(8) && !with_option(3), "a client subnet, NSID");
    let update = update_message::create(
        Rr::from_rdata(name("www.example."), 60, RData::A(A::new(192, 0, 2, 1))).into(),
        name("example."),
        false,
    );
    assert_eq!(update.metadata.op_code, OpCode::Update);
    assert!(Asked::read(&update.to_vec().unwrap()).is_none());
}

#[test]
fn what_the_reply_depends_on_is_in_the_key() {
    let plain = query("www.example.", RecordType::A, false);
    let key = |query: &[u8]| Asked::read(query).unwrap().key().to_vec();
    let with = |change: &dyn Fn(&mut Message)| {
        let mut message = Message::from_vec(&plain).unwrap();
        change(&mut message);
        message.to_vec().unwrap()
    };
    assert_eq!(key(&plain), key(&query("WWW.eXample.", RecordType::A, true)), "neither case nor EDNS");
    for (why, other) in [
        ("the name", query("ww.example.", RecordType::A, false)),
        ("the type", query("www.example.", RecordType::AAAA, false)),
        // 65 and 97 are one letter in two cases.
        ("the type's case", query("www.example.", RecordType::from(97), false)),
        ("CD", with(&|m| m.metadata.checking_disabled = true)),
        ("AD", with(&|m| m.metadata.authentic_data = true)),
        ("DO", with(&|m| m.edns.get_or_insert_with(Edns::new).flags_mut().dnssec_ok = true)),
    ] {
        assert_ne!(key(&plain), key(&other), "{why}");
    }
    let https = query("www.example.", RecordType::HTTPS, false);
    assert_ne!(key(&https), key(&query("www.example.", RecordType::from(97), false)));
    let longest = format!("{0}.{0}.{0}.{1}.", "a".repeat(63), "b".repeat(61));
    assert_eq!(key(&query(&longest, RecordType::A, false)).len(), MAX_KEY);
}

/// Renders the reply of three records to `www.example A` for `query`.
fn rendered(query: &[u8], age: Option<u32>, udp: bool) -> Message {
    let message = reply(ResponseCode::NoError, vec![a(60), a(90)], vec![], true);
    let kept = Kept::of(&message.to_vec().unwrap()).unwrap();
    let mut out = b"what was there before".to_vec();
    kept.render(&Asked::read(query).unwrap(), age, udp, &mut out);
    Message::from_vec(&out).unwrap()
}

#[test]
fn a_kept_reply_is_given_as_if_to_this_query() {
    let mut asked = query("wwW.Example.", RecordType::A, false);
    asked[..2].copy_from_slice(&[0xab, 0xcd]);
    let answer = rendered(&asked, Some(20), true);
    assert_eq!(answer.metadata.id, 0xabcd);
    assert_eq!(answer.queries[0].name().to_ascii(), "wwW.Example.");
    assert_eq!(answer.answers.iter().map(|r| r.ttl).collect::<Vec<_>>(), [40, 70]);
    assert!(answer.edns.is_none() && !answer.metadata.authoritative && answer.metadata.recursion_desired);
    let answer = rendered(&query("www.example.", RecordType::A, true), Some(0), true);
    assert_eq!(answer.edns.map(|e| e.max_payload()), Some(SAFE_UDP));
}

/// RFC 8767 section 4 for the TTL, RFC 8914 sections 4.4 and 4.20 for the code.
#[test]
fn a_stale_reply_says_so() {
    let answer = rendered(&query("www.example.", RecordType::A, false), None, true);
    assert_eq!(answer.answers.iter().map(|r| r.ttl).collect::<Vec<_>>(), [30, 30]);
    let asked = query("www.example.", RecordType::A, true);
    for (rcode, answers, authority, code) in [
        (ResponseCode::NoError, vec![a(60)], vec![], 3),
        (ResponseCode::NoError, vec![], vec![soa(60, 60)], 3),
        (ResponseCode::NXDomain, vec![], vec![soa(60, 60)], 19),
    ] {
        let message = reply(rcode, answers, authority, false).to_vec().unwrap();
        let mut out = Vec::new();
        Kept::of(&message).unwrap().render(&Asked::read(&asked).unwrap(), None, true, &mut out);
        assert!(out.ends_with(&[0, 6, 0, 15, 0, 2, 0, code]), "{rcode}");
        assert!(Message::from_vec(&out).unwrap().edns.is_some());
    }
}

#[test]
fn what_the_client_does_not_take_is_truncated_over_udp_only() {
    let message = reply(ResponseCode::NoError, vec![a(60); 60], vec![], false).to_vec().unwrap();
    assert!((513..4000).contains(&message.len()));
    let kept = Kept::of(&message).unwrap();
    for (edns, udp, whole) in [(false, true, false), (true, true, true), (false, false, true)] {
        let asked = query("www.example.", RecordType::A, edns);
        let mut out = Vec::new();
        kept.render(&Asked::read(&asked).unwrap(), Some(0), udp, &mut out);
        let answer = Message::from_vec(&out).unwrap();
        assert_eq!((answer.answers.len() == 60, !answer.metadata.truncation), (whole, whole));
        assert_eq!(answer.edns.is_some(), edns);
    }
    // As long as a message can be: there is no room for OPT, and over TCP nowhere to go.
    let mut longest = reply(ResponseCode::NoError, vec![], vec![], false).to_vec().unwrap();
    longest[6..8].copy_from_slice(&1u16.to_be_bytes());
    longest.extend([0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 60]);
    let rest = u16::MAX - 2 - u16::try_from(longest.len()).unwrap();
    longest.extend(rest.to_be_bytes());
    longest.resize(65_535, 0);
    let asked = query("www.example.", RecordType::A, true);
    let mut out = Vec::new();
    Kept::of(&longest).unwrap().render(&Asked::read(&asked).unwrap(), Some(0), false, &mut out);
    assert_eq!(out.len(), 65_535);
}

/// Whatever query comes: what the cache would answer is a question that can be found in it.
#[test]
fn queries_for_the_cache() {
    let mut corpus = packets();
    corpus.push(query("www.example.", RecordType::A, true));
    fuzz("queries for the cache", &corpus, |input| {
        let Some(asked) = Asked::read(input) else { return false };
        assert!(question_octets(input) == Some(asked.question) && asked.key().len() <= MAX_KEY);
        true
    });
}

/// Whatever upstreams send: what is kept is a reply that clients can read, of the same records, and no longer kept than
/// the records allow.
#[test]
fn replies_for_the_cache() {
    let corpus = [
        reply(ResponseCode::NoError, vec![a(60), a(90)], vec![], true),
        reply(ResponseCode::NXDomain, vec![], vec![soa(60, 60)], true),
        reply(ResponseCode::NoError, vec![a(60)], vec![soa(60, 60)], false),
    ]
    .map(|message| message.to_vec().unwrap());
    let asked = query("www.example.", RecordType::A, true);
    let asked = Asked::read(&asked).unwrap();
    fuzz("replies for the cache", &corpus, |input| {
        let Some(kept) = Kept::of(input) else { return false };
        assert!(
            input[2] & 0x02 == 0 && matches!(input[3] & 0x0f, 0 | 3) && (1..=MAX_TTL).contains(&kept.ttl)
        );
        assert!(kept.size() <= input.len() * 2 && kept.octets[..2] == input[..2]);
        // Only ever given to the question it answers, which has the same length.
        if question_octets(input).map(<[u8]>::len) == Some(asked.question.len()) {
            let mut out = Vec::new();
            for (age, udp) in [(Some(1), true), (None, true), (Some(u32::MAX), false)] {
                kept.render(&asked, age, udp, &mut out);
                assert_eq!(question_octets(&out), Some(asked.question));
                assert!(out.len() <= kept.octets.len() + 17 && out[..2] == asked.id);
            }
        }
        true
    });
}
