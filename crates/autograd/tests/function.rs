//! Custom functions: gradients, several outputs, missing gradients, saved tensors, errors, panics,
//! and that nothing leaks.
#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tch::{Device, Kind, Tensor};

use autograd::{Backward, BoxError, Forward, Function, apply, backward, grad};
use loract_autograd as autograd;

fn random(shape: &[i64], seed: u64) -> Tensor {
    autograd::random::draw(
        autograd::random::Distribution::Normal,
        shape,
        Kind::Double,
        Device::Cpu,
        seed,
    )
    .unwrap()
}

/// `(x * y, x + y)`; y is saved, and the product too if asked.
struct ProductAndSum {
    dropped: Arc<AtomicUsize>,
    save_output: bool,
    seen_missing: Arc<AtomicBool>,
}

impl ProductAndSum {
    fn new() -> Self {
        Self::saving_output(false)
    }

    fn saving_output(save_output: bool) -> Self {
        Self { dropped: Arc::default(), save_output, seen_missing: Arc::default() }
    }
}

impl Drop for ProductAndSum {
    fn drop(&mut self) {
        self.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

impl Function for ProductAndSum {
    fn name(&self) -> String {
        "product_and_sum".into()
    }

    fn forward(
        &mut self,
        context: &mut Forward<'_>,
        inputs: &[&Tensor],
    ) -> Result<Vec<Tensor>, BoxError> {
        let (x, y) = (inputs[0], inputs[1]);
        let product = x.f_mul(y)?;
        context.save(x);
        context.save(y);
        if self.save_output {
            context.save(&product);
        }
        Ok(vec![product, x.f_add(y)?])
    }

    fn backward(
        &self,
        context: &Backward<'_>,
        gradients: &[Option<Tensor>],
    ) -> Result<Vec<Option<Tensor>>, BoxError> {
        let saved = context.saved()?;
        if self.save_output && saved[2] != &saved[0] * &saved[1] {
            return Err("the saved output is not the product".into());
        }
        let pull = |other: &Tensor| {
            let mut sum = other.zeros_like();
            if let Some(product) = &gradients[0] {
                sum += product * other;
            }
            match &gradients[1] {
                Some(gradient) => sum += gradient,
                None => self.seen_missing.store(true, Ordering::SeqCst),
            }
            sum
        };
        Ok(vec![
            context.needs_grad(0).then(|| pull(&saved[1])),
            context.needs_grad(1).then(|| pull(&saved[0])),
        ])
    }
}

#[test]
fn gradients_equal_libtorch_and_finite_differences() {
    let (x, y) =
        (random(&[3, 5], 1).set_requires_grad(true), random(&[3, 5], 2).set_requires_grad(true));
    let loss = |x: &Tensor, y: &Tensor| {
        let out = apply(ProductAndSum::new(), &[x, y]).unwrap();
        (&out[0] * &out[0]).sum(Kind::Double) + out[1].sin().sum(Kind::Double)
    };
    backward(&[&loss(&x, &y)], &[None], false).unwrap();
    let step = 1e-6;
    for (index, tensor) in [&x, &y].into_iter().enumerate() {
        let direction = random(&[3, 5], 3 + index as u64);
        let moved = |sign: f64| {
            let moved = tensor.detach() + &direction * (sign * step);
            let (a, b) = if index == 0 { (moved, y.detach()) } else { (x.detach(), moved) };
            loss(&a, &b).double_value(&[])
        };
        let numeric = (moved(1.0) - moved(-1.0)) / (2.0 * step);
        let exact = (tensor.grad() * &direction).sum(Kind::Double).double_value(&[]);
        assert!((numeric - exact).abs() < 1e-6 * exact.abs().max(1.0), "{numeric} {exact}");
    }
}

#[test]
fn a_missing_gradient_is_none_and_needs_are_respected() {
    let (x, y) = (random(&[4], 1).set_requires_grad(true), random(&[4], 2));
    let function = ProductAndSum::new();
    let missing = function.seen_missing.clone();
    let out = apply(function, &[&x, &y]).unwrap();
    backward(&[&out[0].sum(Kind::Double)], &[None], false).unwrap();
    assert!(missing.load(Ordering::SeqCst));
    assert_eq!(x.grad(), y);
    assert!(!y.grad().defined());
}

#[test]
fn needs_follow_the_inputs_asked_for() {
    // Both require gradients, but only one is asked for: the other must not be computed.
    struct Spy(Arc<AtomicBool>);
    impl Function for Spy {
        fn name(&self) -> String {
            "spy".into()
        }
        fn forward(
            &mut self,
            _: &mut Forward<'_>,
            inputs: &[&Tensor],
        ) -> Result<Vec<Tensor>, BoxError> {
            Ok(vec![inputs[0] + inputs[1]])
        }
        fn backward(
            &self,
            context: &Backward<'_>,
            gradients: &[Option<Tensor>],
        ) -> Result<Vec<Option<Tensor>>, BoxError> {
            self.0.store(context.needs_grad(1), Ordering::SeqCst);
            let gradient = gradients[0].as_ref().map(Tensor::shallow_clone);
            Ok(vec![gradient, None])
        }
    }
    let (x, y) = (random(&[2], 1).set_requires_grad(true), random(&[2], 2).set_requires_grad(true));
    let asked = Arc::new(AtomicBool::new(true));
    let out = apply(Spy(asked.clone()), &[&x, &y]).unwrap();
    let answers = grad(&[&out[0]], &[&x], &[Some(&random(&[2], 3))], false, false).unwrap();
    assert_eq!(answers[0].as_ref().unwrap(), &random(&[2], 3));
    assert!(!asked.load(Ordering::SeqCst));
    assert!(!x.grad().defined(), "grad must not touch .grad");
}

#[test]
fn the_function_is_dropped_with_its_backward_or_with_its_graph() {
    let x = random(&[2], 1).set_requires_grad(true);
    for save_output in [false, true] {
        let function = ProductAndSum::saving_output(save_output);
        let dropped = function.dropped.clone();
        let out = apply(function, &[&x, &x]).unwrap();
        let loss = out[0].sum(Kind::Double);
        backward(&[&loss], &[None], true).unwrap();
        assert_eq!(dropped.load(Ordering::SeqCst), 0, "kept graph");
        backward(&[&loss], &[None], false).unwrap();
        assert_eq!(dropped.load(Ordering::SeqCst), 1, "dropped as soon as used");
        let again = backward(&[&loss], &[None], false).unwrap_err().to_string();
        assert!(again.contains("second time"), "{again}");

        let function = ProductAndSum::saving_output(save_output);
        let dropped = function.dropped.clone();
        drop(apply(function, &[&x, &x]).unwrap());
        assert_eq!(
            dropped.load(Ordering::SeqCst),
            1,
            "a graph that is never used is freed (save_output {save_output})"
        );
    }
}

#[test]
fn without_gradients_nothing_is_recorded() {
    let x = random(&[2], 1);
    let function = ProductAndSum::new();
    let dropped = function.dropped.clone();
    let out = apply(function, &[&x, &x]).unwrap();
    assert!(!out[0].requires_grad());
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
    let x = x.set_requires_grad(true);
    let _mode = autograd::GradMode::disabled();
    assert!(!apply(ProductAndSum::new(), &[&x, &x]).unwrap()[0].requires_grad());
}

enum Fault {
    ForwardError,
    BackwardError,
    BackwardPanic,
    WrongCount,
    WrongShape,
    ReturnsInput,
}

impl Function for Fault {
    fn name(&self) -> String {
        "fault".into()
    }
    fn forward(
        &mut self,
        _: &mut Forward<'_>,
        inputs: &[&Tensor],
    ) -> Result<Vec<Tensor>, BoxError> {
        match self {
            Self::ForwardError => Err("forward refused".into()),
            Self::ReturnsInput => Ok(vec![inputs[0].shallow_clone()]),
            _ => Ok(vec![inputs[0] * 2.0]),
        }
    }
    fn backward(
        &self,
        _: &Backward<'_>,
        gradients: &[Option<Tensor>],
    ) -> Result<Vec<Option<Tensor>>, BoxError> {
        let gradient = gradients[0].as_ref().map(|gradient| gradient * 2.0);
        match self {
            Self::BackwardError => Err("backward refused".into()),
            Self::BackwardPanic => panic!("backward panicked on purpose"),
            Self::WrongCount => Ok(vec![gradient, None]),
            Self::WrongShape => Ok(vec![Some(Tensor::zeros([7], (Kind::Double, Device::Cpu)))]),
            _ => Ok(vec![gradient]),
        }
    }
}

#[test]
fn errors_and_panics_come_out_and_the_engine_goes_on() {
    let x = random(&[3], 1).set_requires_grad(true);
    let error = apply(Fault::ForwardError, &[&x]).unwrap_err().to_string();
    assert_eq!(error, "forward of fault: forward refused");
    let error = apply(Fault::ReturnsInput, &[&x]).unwrap_err().to_string();
    assert!(error.contains("output 0 is one of the inputs itself"), "{error}");
    for (fault, expected) in [
        (Fault::BackwardError, "backward of fault: backward refused"),
        (Fault::BackwardPanic, "backward of fault: panicked: backward panicked on purpose"),
        (Fault::WrongCount, "expected 1 gradients, got 2"),
        (Fault::WrongShape, "invalid gradient"),
    ] {
        let loss = apply(fault, &[&x]).unwrap()[0].sum(Kind::Double);
        let error = backward(&[&loss], &[None], false).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(autograd::grad_enabled());
    }
    let loss = apply(ProductAndSum::new(), &[&x, &x]).unwrap()[0].sum(Kind::Double);
    backward(&[&loss], &[None], false).unwrap();
    assert_eq!(x.grad(), x.detach() * 2.0);
}

#[test]
fn an_edit_in_place_of_a_saved_tensor_is_an_error() {
    let x = random(&[3], 1).set_requires_grad(true);
    let mut y = random(&[3], 2);
    let out = apply(ProductAndSum::new(), &[&x, &y]).unwrap();
    let _ = y.fill_(1.0);
    let error = backward(&[&out[0].sum(Kind::Double)], &[None], false).unwrap_err().to_string();
    assert!(error.contains("modified by an inplace operation"), "{error}");
}

#[test]
fn an_output_that_is_a_view_inside_may_be_edited_in_place_outside() {
    struct Row;
    impl Function for Row {
        fn name(&self) -> String {
            "row".into()
        }
        fn forward(
            &mut self,
            context: &mut Forward<'_>,
            inputs: &[&Tensor],
        ) -> Result<Vec<Tensor>, BoxError> {
            let all = inputs[0] * 3.0;
            let row = all.view([1, -1]).get(0);
            context.save(&row);
            Ok(vec![row])
        }
        fn backward(
            &self,
            context: &Backward<'_>,
            gradients: &[Option<Tensor>],
        ) -> Result<Vec<Option<Tensor>>, BoxError> {
            assert_eq!(context.saved()?.len(), 1);
            Ok(vec![gradients[0].as_ref().map(|gradient| gradient * 3.0)])
        }
    }
    let x = random(&[3], 1).set_requires_grad(true);
    let mut y = apply(Row, &[&x]).unwrap().remove(0);
    backward(&[&y.sum(Kind::Double)], &[None], true).unwrap();
    assert_eq!(x.grad(), x.zeros_like() + 3.0);
    let _ = y.g_add_scalar_(1.0);
    let _ = y.g_mul_scalar_(2.0);
    let error = backward(&[&y.sum(Kind::Double)], &[None], false).unwrap_err().to_string();
    assert!(
        error.contains("modified by an inplace operation"),
        "the saved output was edited: {error}"
    );
}

#[test]
fn a_second_derivative_is_refused_by_name() {
    let x = random(&[3], 1).set_requires_grad(true);
    let out = apply(ProductAndSum::new(), &[&x, &x]).unwrap();
    let error =
        grad(&[&out[0].sum(Kind::Double)], &[&x], &[None], true, true).unwrap_err().to_string();
    assert!(error.contains("product_and_sum has no second derivative"), "{error}");
}

#[test]
fn hooks_fire_once_when_the_gradient_is_complete() {
    let x = random(&[3], 1).set_requires_grad(true);
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    autograd::on_gradient(&x, move |parameter| {
        counted.fetch_add(1, Ordering::SeqCst);
        assert!(parameter.grad().defined());
        Ok(())
    })
    .unwrap();
    // Used three times, once through a checkpoint.
    let twin = x.shallow_clone();
    let run = move |inputs: &[Tensor]| Ok(vec![&inputs[0] * &twin]);
    let out = autograd::checkpoint(run, &[&x], &[&x]).unwrap();
    backward(&[&(&out[0] * &x).sum(Kind::Double)], &[None], false).unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    let expected = x.detach().square() * 3.0;
    assert!(x.grad().allclose(&expected, 1e-12, 1e-12, false));
    autograd::on_gradient(&x, |_| Err("the hook refused".into())).unwrap();
    let error = backward(&[&x.sum(Kind::Double)], &[None], false).unwrap_err().to_string();
    assert!(error.contains("gradient hook: the hook refused"), "{error}");
    autograd::clear_gradient_hook(&x).unwrap();
    backward(&[&x.sum(Kind::Double)], &[None], false).unwrap();
    assert!(autograd::on_gradient(&random(&[1], 1), |_| Ok(())).is_err());
}
