//! Test builds only: an array that dies between two steps of a verb. `TWINLUN_DIES_AT` names the step:
//! `admitted` (the objects hold the member, its control does not know) or `grown_there` (the other array's copy has
//! grown, this one's has not).

/// The verb has come to `step`.
#[cfg(feature = "testing")]
pub fn at(step: &str) {
    if std::env::var_os("TWINLUN_DIES_AT").is_some_and(|wanted| wanted == step) {
        tracing::warn!(step, "this array dies on purpose");
        std::process::abort();
    }
}

#[cfg(not(feature = "testing"))]
pub const fn at(_step: &str) {}
