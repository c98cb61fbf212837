//! The kernel compares keys and user space reads values byte by byte: no type has a byte that is nobody's.

use mesh_ebpf_common::{
    table::{Entry, Head, Line4, Line6},
    xdp::{Device, Vtep, VtepKey},
    *,
};

/// Every field is listed, and they fill the type.
macro_rules! filled {
    ($($type:ident $(<$family:ty>)? { $($field:ident),+ };)+) => { $({
        // SAFETY: all of them are plain numbers, of which zero is one.
        let zero: $type $(<$family>)? = unsafe { core::mem::zeroed() };
        let $type { $($field),+ } = zero;
        let fields = [$(size_of_val(&$field)),+].iter().sum::<usize>();
        assert_eq!(size_of_val(&zero), fields, "{}", stringify!($type $(<$family>)?));
    })+ };
}

#[test]
fn no_type_has_padding() {
    filled! {
        ServiceKey<V4> { address, port, protocol, pad };
        ServiceKey<V6> { address, port, protocol, pad };
        Service { frontend, base, slots, offset, flags, turn, pad };
        Frontend { service, sticky_ms, idle_ms, max_flows, pad };
        Backend { address, port, state, generation, frontend, weight, id, active, begun, pad };
        FlowKey<V4> { source, destination, source_port, destination_port, protocol, pad };
        FlowKey<V6> { source, destination, source_port, destination_port, protocol, pad };
        Flow<V4> { source, destination, source_port, destination_port, bits, backend, generation, frontend, seen };
        Flow<V6> { source, destination, source_port, destination_port, bits, backend, generation, frontend, seen };
        Entry<V4> { key, flow };
        Entry<V6> { key, flow };
        Line4 { entry, pad };
        Line6 { entry, pad };
        Rewrite<V4> {
            source, destination, nexthop, source_port, destination_port, addresses, ports, pseudo, device, mtu, bits, backend
        };
        Cached<V4> { key, rewrite, epoch, since };
        FragmentKey<V4> { source, destination, id, protocol, pad };
        Rewrite<V6> {
            source, destination, nexthop, source_port, destination_port, addresses, ports, pseudo, device, mtu, bits, backend
        };
        Cached<V6> { key, rewrite, epoch, since };
        FragmentKey<V6> { source, destination, id, protocol, pad };
        Dialled { address, peer, port, peer_port, family, backend, generation };
        PeerKey<V4> { cookie, address, port, pad };
        PeerKey<V6> { cookie, address, port, pad };
        Chosen { backend, generation };
        Peer<V4> { address, port, pad };
        Peer<V6> { address, port, pad };
        StickyKey { service, client };
        Sticky { id, until };
        MemberKey { id, frontend, short };
        AllowKey<V4> { prefix, frontend, address };
        AllowKey<V6> { prefix, frontend, address };
        FrontendCounts { no_backend, denied, limited };
        BackendCounts { reset, bytes_in, bytes_out };
        Config {
            netns, epoch, mode, overlay, tunnel, new_flows, hz, cached, underlay, sets, seed, node4, overlay4, vips4, node6, overlay6, vips6
        };
        Device { mac, bits };
        VtepKey { device, mac, pad };
        Vtep { remote, local, vni, port, family };
        Pace { jiffy, flows, events, pad };
        Event { source, destination, source_port, destination_port, family, protocol, reason };
    }
}

#[test]
fn a_head_fits_into_a_line() {
    assert_eq!(size_of::<Line4>(), 64);
    assert!(size_of::<Line6>() >= size_of::<Head>() && size_of::<Line6>().is_multiple_of(8));
}

#[test]
fn every_reason_has_a_name() {
    assert_eq!(Drop::COUNT, Drop::Gone as u32 + 1);
    assert_eq!(Drop::NAMES[Drop::NoRoute as usize], "no_route");
}
