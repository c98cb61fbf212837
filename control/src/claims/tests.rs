use super::*;

fn service(name: &str) -> ServiceKey {
    ServiceKey::in_default(name).unwrap()
}

fn vip(name: &str, address: &str, stamp: u64) -> (ClaimKey, Claim) {
    let key = ClaimKey::Vip { service: service(name), family: Family::V4 };
    let held = Held::Address(address.parse().unwrap());
    (key, Claim { generation: 0, stamp: Hlc(stamp), held })
}

fn port(name: &str, range: &str, stamp: u64, host: bool) -> (ClaimKey, Claim) {
    let key = ClaimKey::Port { service: service(name), protocol: Protocol::Tcp, port: 80, fixed: None };
    let held = Held::Ports { range: range.parse().unwrap(), address: None, host };
    (key, Claim { generation: 0, stamp: Hlc(stamp), held })
}

#[test]
fn the_oldest_claim_of_an_address_wins_and_names_break_ties() {
    let mut claims = Claims::default();
    let address = "10.0.0.7".parse().unwrap();
    assert!(claims.contend(&service("b"), [vip("b", "10.0.0.7", 5)].into()).is_empty());
    assert!(claims.wins_address(&service("b"), address));
    assert_eq!(claims.contend(&service("c"), [vip("c", "10.0.0.7", 5)].into()), [service("b")].into());
    assert!(claims.wins_address(&service("b"), address) && !claims.wins_address(&service("c"), address));
    claims.contend(&service("a"), [vip("a", "10.0.0.7", 6)].into());
    assert!(claims.wins_address(&service("b"), address));
    // The winner goes: the next one is told.
    assert!(claims.contend(&service("b"), BTreeMap::new()).contains(&service("c")));
    assert!(claims.wins_address(&service("c"), address));
}

#[test]
fn candidates_are_the_same_everywhere_and_avoid_what_is_taken() {
    let network: IpNetwork = "10.9.0.0/24".parse().unwrap();
    let mut claims = Claims::default();
    let first = claims.free_address(&service("web"), network, None).unwrap();
    assert_eq!(Claims::default().free_address(&service("web"), network, None), Some(first));
    claims.contend(&service("x"), [vip("x", &first.to_string(), 1)].into());
    let second = claims.free_address(&service("web"), network, None).unwrap();
    assert_ne!(first, second);
    assert!(network.contains(second));
    // The one it has is preferred, unless another claims it.
    assert_eq!(claims.free_address(&service("web"), network, Some(second)), Some(second));
    assert_ne!(claims.free_address(&service("web"), network, Some(first)), Some(first));
}

#[test]
fn a_small_network_is_filled_to_its_last_address_and_not_beyond() {
    for network in ["10.9.0.0/28", "fd00::/124"] {
        let network: IpNetwork = network.parse().unwrap();
        let mut claims = Claims::default();
        let mut taken = BTreeSet::new();
        let room = if network.is_ipv4() { 14 } else { 15 };
        for i in 0..room {
            let name = format!("s{i}");
            let address = claims.free_address(&service(&name), network, None).unwrap();
            assert!(taken.insert(address) && network.contains(address));
            claims.contend(&service(&name), [vip(&name, &address.to_string(), 1)].into());
        }
        assert_eq!(claims.free_address(&service("more"), network, None), None);
    }
}

#[test]
fn ports_clash_by_range_and_host_ports_only_with_ingress() {
    let mut claims = Claims::default();
    let (a, b) = (port("a", "80-90", 1, false), port("b", "85", 2, false));
    claims.contend(&service("a"), [a.clone()].into());
    assert_eq!(claims.contend(&service("b"), [b.clone()].into()), [service("a")].into());
    assert_eq!(claims.better_port_claim(&b.0, &b.1), Some(&service("a")));
    assert_eq!(claims.better_port_claim(&a.0, &a.1), None);
    let (h1, h2) = (port("h1", "500", 3, true), port("h2", "500", 4, true));
    claims.contend(&service("h1"), [h1].into());
    claims.contend(&service("h2"), [h2.clone()].into());
    assert_eq!(claims.better_port_claim(&h2.0, &h2.1), None);
    let late = port("i", "500", 5, false);
    assert_eq!(claims.better_port_claim(&late.0, &late.1), Some(&service("h1")));
}

#[test]
fn one_service_port_published_at_several_places_never_gets_its_own_port_chosen() {
    let mut claims = Claims::default();
    let range: PortRange = "30000-30001".parse().unwrap();
    let (chosen, _) = port("a", "1", 1, false);
    let ports = claims.free_ports(&chosen, 1, range).unwrap();
    let fixed = Some(Fixed { first: ports.first(), address: None });
    let named = ClaimKey::Port { service: service("a"), protocol: Protocol::Tcp, port: 80, fixed };
    let claim = port("a", &ports.to_string(), 1, false).1;
    claims.contend(&service("a"), [(named.clone(), claim)].into());
    let other = claims.free_ports(&chosen, 1, range).unwrap();
    assert!(!other.overlaps(ports), "{other} is the one that the service names itself");
    let second = port("a", &other.to_string(), 2, false).1;
    claims.contend(&service("a"), [(named.clone(), claim), (chosen.clone(), second)].into());
    assert_eq!(claims.better_port_claim(&chosen, &second), None);
    assert_eq!(claims.better_port_claim(&named, &claim), None);
}

#[test]
fn dynamic_ports_fill_their_range() {
    let mut claims = Claims::default();
    let range: PortRange = "30000-30009".parse().unwrap();
    let mut taken = BTreeSet::new();
    for i in 0..10 {
        let (key, _) = port(&format!("s{i}"), "1", 1, false);
        let ports = claims.free_ports(&key, 1, range).unwrap();
        assert!(taken.insert(ports) && range.overlaps(ports));
        claims.contend(
            &service(&format!("s{i}")),
            [port(&format!("s{i}"), &ports.to_string(), 1, false)].into(),
        );
    }
    let (key, _) = port("more", "1", 1, false);
    assert_eq!(claims.free_ports(&key, 1, range), None);
    assert_eq!(claims.free_ports(&key, 11, range), None);
}
