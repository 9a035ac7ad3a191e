//! Shared shape of everything durable: magic, version range, checksum, two-slot records. Pure.
