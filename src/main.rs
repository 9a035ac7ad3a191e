//! The `twinlun` program; everything is in the library.

fn main() -> std::process::ExitCode {
    twinlun::cli::run()
}
