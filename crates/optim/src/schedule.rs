use std::f64::consts::PI;

use config::{Decay, Schedule, ScheduleMethod};

/// The learning rate of step `step` (from 0) of `steps`, as a fraction of the highest.
///
/// It rises to 1 during warm-up, whose step `t` has `(t + 1) / warmup_steps`. Then it is constant,
/// or decays to `min_ratio` linearly, along half a cosine, or (`wsd`: warm-up, stable, decay)
/// linearly over the last steps only.
pub fn lr_multiplier(schedule: &Schedule, step: u64, steps: u64) -> f64 {
    let warmup = schedule.warmup_steps;
    if step < warmup {
        return (step + 1) as f64 / warmup as f64;
    }
    let done = (step - warmup) as f64 / steps.saturating_sub(warmup).max(1) as f64;
    let falling = match schedule.method {
        ScheduleMethod::Constant => return 1.0,
        ScheduleMethod::Linear => 1.0 - done,
        ScheduleMethod::Cosine => 0.5 * (1.0 + (PI * done).cos()),
        ScheduleMethod::Wsd => {
            let decay = schedule
                .decay
                .unwrap_or(Decay::Fraction(0.1))
                .steps(steps)
                .min(steps.saturating_sub(warmup).max(1));
            let first = steps.saturating_sub(decay);
            1.0 - step.saturating_sub(first) as f64 / decay as f64
        }
    };
    schedule.min_ratio + (1.0 - schedule.min_ratio) * falling
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(method: ScheduleMethod, min_ratio: f64) -> Vec<f64> {
        let schedule =
            Schedule { method, warmup_steps: 2, decay: Some(Decay::Steps(3)), min_ratio };
        (0..6).map(|step| (lr_multiplier(&schedule, step, 6) * 1e6).round() / 1e6).collect()
    }

    #[test]
    fn warm_up_then_decay() {
        assert_eq!(rates(ScheduleMethod::Constant, 0.3), [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(rates(ScheduleMethod::Linear, 0.0), [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]);
        assert_eq!(rates(ScheduleMethod::Linear, 0.2), [0.5, 1.0, 1.0, 0.8, 0.6, 0.4]);
        assert_eq!(rates(ScheduleMethod::Cosine, 0.0), [0.5, 1.0, 1.0, 0.853553, 0.5, 0.146447]);
        assert_eq!(rates(ScheduleMethod::Wsd, 0.0), [0.5, 1.0, 1.0, 1.0, 0.666667, 0.333333]);
        assert_eq!(rates(ScheduleMethod::Wsd, 0.4), [0.5, 1.0, 1.0, 1.0, 0.8, 0.6]);
    }

    #[test]
    fn a_fraction_of_the_steps_decays_and_never_less_than_one() {
        let rates = |decay, steps: u64| -> Vec<f64> {
            let schedule = Schedule {
                method: ScheduleMethod::Wsd,
                warmup_steps: 0,
                decay: Some(decay),
                min_ratio: 0.0,
            };
            (0..steps).map(|step| lr_multiplier(&schedule, step, steps)).collect()
        };
        assert_eq!(rates(Decay::Fraction(0.5), 8), [1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]);
        assert_eq!(rates(Decay::Fraction(0.01), 3), [1.0; 3]);
        assert_eq!(rates(Decay::Steps(9), 2), [1.0, 0.5], "no more than there are");
    }

    #[test]
    fn no_warm_up_starts_at_the_top() {
        let schedule = Schedule {
            method: ScheduleMethod::Cosine,
            warmup_steps: 0,
            decay: None,
            min_ratio: 0.0,
        };
        assert_eq!(lr_multiplier(&schedule, 0, 10), 1.0);
        assert_eq!(lr_multiplier(&schedule, 0, 1), 1.0);
    }
}
