//! Builds the image that the binary carries: `whoami`, a static program of one file that uses the standard library
//! only. The compiler is called directly, because cargo inside of cargo would wait for its own lock.

use std::path::Path;
use std::process::Command;

fn main() {
    let source = "../examples/whoami/src/main.rs";
    println!("cargo::rerun-if-changed={source}");
    println!("cargo::rerun-if-changed=build.rs");
    if let Err(why) = build(Path::new(source)) {
        println!("cargo::error=cannot build the image whoami: {why}");
        std::process::exit(1);
    }
}

fn build(source: &Path) -> Result<(), String> {
    let variable =
        |name: &str| std::env::var(name).map_err(|_| format!("cargo did not set {name}"));
    let out = Path::new(&variable("OUT_DIR")?).join("whoami");
    let mut rustc = Command::new(variable("RUSTC")?);
    rustc
        .arg(source)
        .args([
            "--edition",
            "2024",
            "--crate-type",
            "bin",
            "--crate-name",
            "whoami",
        ])
        .args(["--target", &variable("TARGET")?])
        // Nothing of a host is in its container: the program must not need a dynamic linker.
        .args([
            "-C",
            "target-feature=+crt-static",
            "-C",
            "relocation-model=static",
        ])
        .args([
            "-C",
            "opt-level=s",
            "-C",
            "panic=abort",
            "-C",
            "strip=symbols",
        ])
        // The same bytes, and so the same digest, wherever they are built from.
        .args([
            "--remap-path-prefix",
            &format!("{}=/", variable("CARGO_MANIFEST_DIR")?),
        ])
        .arg("-o")
        .arg(&out);
    if let Ok(linker) = variable("RUSTC_LINKER") {
        rustc.args(["-C", &format!("linker={linker}")]);
    }
    let output = rustc
        .output()
        .map_err(|e| format!("cannot run {rustc:?}: {e}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).replace('\n', "; "));
    }
    Ok(())
}
