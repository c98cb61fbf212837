//! x
#[test]
fn loads() {
    let mut ebpf = mesh_ebpf::open(&mesh_ebpf::Sizes::default(), None).unwrap();
    for name in ["tc_ingress", "tc_egress"] {
        let program: &mut aya::programs::SchedClassifier = ebpf.program_mut(name).unwrap().try_into().unwrap();
        if let Err(e) = program.load() { let s = format!("{e}"); std::fs::write(format!("/tmp/verifier-{name}"), &s).unwrap(); panic!("{name} {}", &s[s.len().saturating_sub(3000)..]); }
        println!("{name}: {:?}", program.info().unwrap().verified_instruction_count());
    }
}
