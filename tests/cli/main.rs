#[test]
fn it_is_there() {
    assert!(std::path::Path::new(env!("CARGO_BIN_EXE_millstream")).exists());
}
