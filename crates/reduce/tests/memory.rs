//! What a reducer holds beyond the gradients, to the byte. One test: the counter counts for the
//! whole process.
#![allow(clippy::unwrap_used)]

mod simulation;

use std::sync::Arc;

use tch::{Device, Kind};

use collective::Single;
use reduce::{Config, GradientReducer, Method, PowerSgdConfig};

use simulation::parameters;

#[test]
fn buckets_are_the_gradients_wherever_they_can_be() {
    autograd::memory::count_cpu();
    let held = || autograd::memory::current(Device::Cpu).unwrap();
    let shapes: &[&[i64]] = &[&[30, 20], &[30, 20], &[50, 40], &[7]];
    let elements = 2 * 30 * 20 + 50 * 40 + 7_u64;
    let powersgd = |error_feedback| {
        Method::PowerSgd(PowerSgdConfig {
            rank: 2,
            start_step: 0,
            error_feedback,
            ..PowerSgdConfig::default()
        })
    };
    // P, Q and the next step's Q of rank 2.
    let factors = 4 * 2 * (2 * (30 + 2 * 20) + (50 + 2 * 40));
    let cases = [
        (Kind::Float, Method::Exact, 4 * elements),
        (Kind::Float, Method::Bf16, (4 + 2) * elements),
        (Kind::BFloat16, Method::Exact, (2 + 4) * elements),
        (Kind::BFloat16, Method::Bf16, 2 * elements),
        (Kind::Float, powersgd(false), 4 * elements + factors),
        (Kind::Float, powersgd(true), 4 * elements + factors + 4 * (elements - 7)),
    ];
    for (kind, method, expected) in cases {
        for bucket_bytes in [1, 25 << 20] {
            let parameters = parameters(shapes, kind);
            let before = held();
            let config = Config { method, bucket_bytes, ..Config::default() };
            let mut reducer =
                GradientReducer::new(Arc::new(Single::new()), &parameters, config).unwrap();
            for step in 0..2 {
                for (_, parameter) in &parameters {
                    (parameter * 2.0).sum(kind).backward();
                }
                reducer.reduce(step).unwrap();
                assert_eq!(held() - before, expected, "{kind:?} {method:?} at step {step}");
                reducer.zero_gradients().unwrap();
            }
        }
    }
}
