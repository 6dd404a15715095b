use crate::config::{Schedule, ScheduleKind};
use std::f64::consts::PI;

/// The learning rate of step `step` (from 0) of `steps`, as a fraction of the highest: rising to 1 in the warm-up, whose step `t` has
/// `(t + 1) / warmup_steps`, then constant or falling to `min_ratio` along a line or half a cosine.
pub fn learning_rate(schedule: &Schedule, step: u64, steps: u64) -> f64 {
    let warmup = schedule.warmup_steps;
    if step < warmup {
        return (step + 1) as f64 / warmup as f64;
    }
    let done = (step - warmup) as f64 / steps.saturating_sub(warmup).max(1) as f64;
    let falling = match schedule.kind {
        ScheduleKind::Constant => return 1.0,
        ScheduleKind::Linear => 1.0 - done,
        ScheduleKind::Cosine => 0.5 * (1.0 + (PI * done).cos()),
    };
    schedule.min_ratio + (1.0 - schedule.min_ratio) * falling
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(kind: ScheduleKind, min_ratio: f64) -> Vec<f64> {
        let schedule = Schedule { kind, warmup_steps: 2, min_ratio };
        (0..6).map(|step| (learning_rate(&schedule, step, 6) * 1e6).round() / 1e6).collect()
    }

    #[test]
    fn warm_up_then_decay() {
        assert_eq!(rates(ScheduleKind::Constant, 0.3), [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(rates(ScheduleKind::Linear, 0.0), [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]);
        assert_eq!(rates(ScheduleKind::Linear, 0.2), [0.5, 1.0, 1.0, 0.8, 0.6, 0.4]);
        assert_eq!(rates(ScheduleKind::Cosine, 0.0), [0.5, 1.0, 1.0, 0.853553, 0.5, 0.146447]);
    }

    #[test]
    fn no_warm_up_starts_at_the_top() {
        let schedule = Schedule { kind: ScheduleKind::Cosine, warmup_steps: 0, min_ratio: 0.0 };
        assert_eq!(learning_rate(&schedule, 0, 10), 1.0);
        assert_eq!(learning_rate(&schedule, 0, 1), 1.0);
    }
}
