use crate::plan::Program;
#[test]
fn t() {
    let object = aya_obj::Object::parse(super::object::bytes()).unwrap();
    let mut ebpf = aya::EbpfLoader::new().load(super::object::bytes()).unwrap();
    let _ = object;
    for p in Program::ALL {
        let prog: &mut aya::programs::UProbe =
            ebpf.program_mut(p.name()).unwrap().try_into().unwrap();
        match prog.load() {
            Ok(()) => {
                eprintln!("ok {} {:?}", p.name(), prog.info().unwrap().verified_instruction_count())
            }
            Err(e) => {
                let s = format!("{e:#?}");
                let t: Vec<&str> = s.split("\\n").collect();
                eprintln!("FAIL {} {}", p.name(), t[t.len().saturating_sub(25)..].join("\n"))
            }
        }
    }
}
