/// What to inspect.
#[derive(Clone, Debug, PartialEq)]
pub struct InspectOptions {
    /// Batches of the run, from its first.
    pub batches: u64,
    /// Bits per element, both factors, scales and all counted, at which methods are compared.
    pub bits: Vec<f64>,
    /// The most layers whose sites are reported, spread evenly from the first to the last.
    pub layers: usize,
    /// Methods that are compared, by their first word (`"coded"`); all of them if there is none.
    pub methods: Vec<String>,
    /// Batches by which the basis of `coded` is also taken earlier; 0: it is not.
    pub age: u64,
    /// Numbers of neighbouring layers that share such an older basis.
    pub shared: Vec<usize>,
}

impl Default for InspectOptions {
    fn default() -> Self {
        Self {
            batches: 2,
            bits: vec![2.0, 4.0, 8.0],
            layers: 8,
            methods: Vec::new(),
            age: 0,
            shared: Vec::new(),
        }
    }
}
