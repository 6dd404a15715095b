//! What `loract render` writes for Kubernetes, read as a cluster reads it: each document is held
//! against the fields that its CRD publishes (`tests/fixtures/crds`), and any other is refused.
#![allow(dead_code)] // each test file uses its own part

mod schema;

use crate::program::fixture;
use serde::Deserialize;
use serde_json::Value;

/// The documents of a file.
pub struct Manifest {
    documents: Vec<Value>,
}

impl Manifest {
    /// Reads a file whose documents have only fields of their CRDs, with values that these take.
    pub fn read(text: &str) -> Self {
        let documents = serde_yaml_ng::Deserializer::from_str(text).map(|document| {
            Value::deserialize(document).unwrap_or_else(|why| panic!("{why}: {text}"))
        });
        let manifest = Self { documents: documents.collect() };
        for document in &manifest.documents {
            let wrong = violations(document);
            assert!(wrong.is_empty(), "{}\n{text}", wrong.join("\n"));
        }
        manifest
    }

    /// What stands at `pointer` in the document of this kind; null where nothing does.
    pub fn at(&self, kind: &str, pointer: &str) -> &Value {
        let document = self.documents.iter().find(|document| document["kind"] == kind);
        let document = document.unwrap_or_else(|| panic!("there is no {kind}"));
        document.pointer(pointer).unwrap_or(&Value::Null)
    }

    /// The specifications of the pods: that of the launcher, and that of each worker.
    pub fn pods(&self) -> [&Value; 2] {
        if self.documents[0]["kind"] == "MPIJob" {
            ["Launcher", "Worker"].map(|role| {
                self.at("MPIJob", &format!("/spec/mpiReplicaSpecs/{role}/template/spec"))
            })
        } else {
            [1, 0].map(|index| {
                let job = format!("/spec/template/spec/replicatedJobs/{index}");
                self.at("TrainingRuntime", &format!("{job}/template/spec/template/spec"))
            })
        }
    }

    /// What the launcher's shell is given.
    pub fn script(&self) -> &str {
        let arguments = match self.documents[0]["kind"] == "MPIJob" {
            true => &self.pods()[0]["containers"][0]["args"],
            false => self.at("TrainJob", "/spec/trainer/args"),
        };
        arguments[0].as_str().unwrap()
    }
}

/// What the API server would refuse, with its place.
pub fn violations(document: &Value) -> Vec<String> {
    let kind = document["kind"].as_str().unwrap_or_default().to_lowercase();
    let path = fixture(&format!("crds/{kind}.json"));
    let text =
        std::fs::read_to_string(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    let crd: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["apiVersion"], crd["apiVersion"]);
    let mut found = Vec::new();
    schema::check(document, &crd["schema"], &kind, &mut found);
    found
}
