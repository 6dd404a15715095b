//! The commands, one file each.

pub mod bench;
pub mod config;
pub mod doctor;
pub mod eval;
pub mod generate;
pub mod init;
pub mod inspect;
pub mod launch;
pub mod merge;
pub mod monitor;
pub mod plan;
pub mod reference;
pub mod render;
pub mod report;
pub mod shard;
pub mod train;
pub mod verify;
