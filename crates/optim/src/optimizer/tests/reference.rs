//! The equations in f64, element by element.

pub trait Reference {
    fn step(&mut self, parameter: &mut [f64], gradient: &[f64], rate: f64);
}

pub struct AdamW {
    betas: [f64; 2],
    eps: f64,
    decay: f64,
    steps: i32,
    moments: Vec<[f64; 2]>,
}

impl AdamW {
    pub fn new(betas: [f64; 2], eps: f64, decay: f64) -> Self {
        Self { betas, eps, decay, steps: 0, moments: Vec::new() }
    }
}

impl Reference for AdamW {
    fn step(&mut self, parameter: &mut [f64], gradient: &[f64], rate: f64) {
        let [one, two] = self.betas;
        self.steps += 1;
        self.moments.resize(parameter.len(), [0.0; 2]);
        for ((p, g), [m, v]) in parameter.iter_mut().zip(gradient).zip(&mut self.moments) {
            *p -= rate * self.decay * *p;
            *m = one * *m + (1.0 - one) * g;
            *v = two * *v + (1.0 - two) * g * g;
            let (m_hat, v_hat) =
                (*m / (1.0 - one.powi(self.steps)), *v / (1.0 - two.powi(self.steps)));
            *p -= rate * m_hat / (v_hat.sqrt() + self.eps);
        }
    }
}

pub struct Lion {
    betas: [f64; 2],
    decay: f64,
    mean: Vec<f64>,
}

impl Lion {
    pub fn new(betas: [f64; 2], decay: f64) -> Self {
        Self { betas, decay, mean: Vec::new() }
    }
}

impl Reference for Lion {
    fn step(&mut self, parameter: &mut [f64], gradient: &[f64], rate: f64) {
        let [one, two] = self.betas;
        self.mean.resize(parameter.len(), 0.0);
        for ((p, g), m) in parameter.iter_mut().zip(gradient).zip(&mut self.mean) {
            let c = one * *m + (1.0 - one) * g;
            *p -= rate * (c.signum() + self.decay * *p);
            *m = two * *m + (1.0 - two) * g;
        }
    }
}

pub struct Sgd {
    momentum: f64,
    nesterov: bool,
    decay: f64,
    sum: Vec<f64>,
}

impl Sgd {
    pub fn new(momentum: f64, nesterov: bool, decay: f64) -> Self {
        Self { momentum, nesterov, decay, sum: Vec::new() }
    }
}

impl Reference for Sgd {
    fn step(&mut self, parameter: &mut [f64], gradient: &[f64], rate: f64) {
        self.sum.resize(parameter.len(), 0.0);
        for ((p, g), b) in parameter.iter_mut().zip(gradient).zip(&mut self.sum) {
            let g = g + self.decay * *p;
            *b = self.momentum * *b + g;
            *p -= rate * if self.nesterov { g + self.momentum * *b } else { *b };
        }
    }
}

pub struct Muon {
    rows: usize,
    momentum: f64,
    nesterov: bool,
    decay: f64,
    scale: f64,
    mean: Vec<f64>,
}

type Matrix = Vec<Vec<f64>>;

fn product(a: &Matrix, b: &Matrix) -> Matrix {
    let column = |row: &[f64], j: usize| row.iter().zip(b).map(|(x, y)| x * y[j]).sum();
    a.iter().map(|row| (0..b[0].len()).map(|j| column(row, j)).collect()).collect()
}

fn transposed(a: &Matrix) -> Matrix {
    (0..a[0].len()).map(|j| a.iter().map(|row| row[j]).collect()).collect()
}

fn sum(x: f64, a: &Matrix, y: f64, b: &Matrix) -> Matrix {
    a.iter().zip(b).map(|(a, b)| a.iter().zip(b).map(|(a, b)| x * a + y * b).collect()).collect()
}

impl Muon {
    pub fn new(rows: usize, momentum: f64, nesterov: bool, decay: f64, scale: f64) -> Self {
        Self { rows, momentum, nesterov, decay, scale, mean: Vec::new() }
    }

    /// `zeropower_via_newtonschulz5`.
    fn zero_power(matrix: Matrix) -> Matrix {
        if matrix.len() > matrix[0].len() {
            return transposed(&Self::zero_power(transposed(&matrix)));
        }
        let norm = matrix.iter().flatten().map(|x| x * x).sum::<f64>().sqrt() + 1e-7;
        let mut x: Matrix =
            matrix.iter().map(|row| row.iter().map(|x| x / norm).collect()).collect();
        for _ in 0..5 {
            let a = product(&x, &transposed(&x));
            let b = sum(-4.7750, &a, 2.0315, &product(&a, &a));
            x = sum(3.4445, &x, 1.0, &product(&b, &x));
        }
        x
    }
}

impl Reference for Muon {
    fn step(&mut self, parameter: &mut [f64], gradient: &[f64], rate: f64) {
        let momentum = self.momentum;
        self.mean.resize(parameter.len(), 0.0);
        self.mean
            .iter_mut()
            .zip(gradient)
            .for_each(|(m, g)| *m = momentum * *m + (1.0 - momentum) * g);
        let ahead = |(m, g): (&f64, &f64)| {
            if self.nesterov { momentum * m + (1.0 - momentum) * g } else { *m }
        };
        let update: Vec<f64> = self.mean.iter().zip(gradient).map(ahead).collect();
        let update = Self::zero_power(
            update.chunks(parameter.len() / self.rows).map(<[f64]>::to_vec).collect(),
        );
        for (p, u) in parameter.iter_mut().zip(update.into_iter().flatten()) {
            *p -= rate * self.decay * *p;
            *p -= rate * self.scale * u;
        }
    }
}
