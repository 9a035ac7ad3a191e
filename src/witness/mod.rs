//! The quorum witness process.
