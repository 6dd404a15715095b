#![allow(clippy::unwrap_used)]
use super::*;
use safetensors::SafeTensors;
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/images")
}

/// A folder for each class, with copies of the recorded image.
fn folders(classes: &[&str]) -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    for (count, class) in classes.iter().enumerate() {
        fs::create_dir(place.path().join(class)).unwrap();
        for number in 0..=count {
            fs::copy(
                fixtures().join("image.png"),
                place.path().join(class).join(format!("{number}.PNG")),
            )
            .unwrap();
        }
    }
    place
}

/// Images of 2 x 3 pixels that count up, with the classes 1, 0 and 2.
fn idx() -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    let images: Vec<u8> = [
        &[0, 0, 8, 3, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 3][..],
        &(0..18).map(|pixel| pixel * 10).collect::<Vec<_>>(),
    ]
    .concat();
    fs::write(place.path().join("t-images-idx3-ubyte"), images).unwrap();
    fs::write(place.path().join("t-labels-idx1-ubyte"), [0, 0, 8, 1, 0, 0, 0, 3, 1, 0, 2]).unwrap();
    place
}

#[test]
fn images_come_out_as_from_transformers() {
    let place = folders(&["a"]);
    let images = LabelledImages::open(place.path(), &ImageKeys::default(), None).unwrap();
    let cases: Vec<Value> =
        serde_json::from_slice(&fs::read(fixtures().join("cases.json")).unwrap()).unwrap();
    let bytes = fs::read(fixtures().join("cases.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let file = place.path().join("preprocessor_config.json");
        fs::write(&file, case["processor"].to_string()).unwrap();
        let size = [0, 1].map(|side| case["size"][side].as_u64().unwrap() as u32);
        let made =
            ImageProcessor::new(Some(&file), 3, size).unwrap().batch(&images, &[0], None).unwrap();
        let view = expected.tensor(name).unwrap();
        let expected: Vec<f32> =
            view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        assert_eq!(made.len(), expected.len(), "{name}");
        // In steps of the 256 that a pixel can have.
        let normalised = case["processor"]["do_normalize"].as_bool().unwrap();
        let deviations = case["processor"]["image_std"]
            .as_array()
            .unwrap()
            .iter()
            .map(|deviation| deviation.as_f64().unwrap());
        let deviation = if normalised { deviations.fold(f64::MAX, f64::min) } else { 1.0 };
        let step =
            if case["processor"]["do_rescale"].as_bool().unwrap() { 1.0 / 255.0 } else { 1.0 }
                / deviation;
        let apart = made
            .iter()
            .zip(&expected)
            .map(|(a, b)| f64::from((a - b).abs()) / step)
            .fold(0.0, f64::max);
        assert!(apart < 1.01, "{name}: {apart} of 256 steps");
        let differ = made
            .iter()
            .zip(&expected)
            .filter(|(a, b)| f64::from((*a - *b).abs()) > step / 100.0)
            .count();
        // Coefficients are rounded to fewer bits than in Python's library.
        assert!(
            differ * 2 <= made.len(),
            "{name}: {differ} of {} pixels are a step off",
            made.len()
        );
    }
}

#[test]
fn folders_are_classes() {
    let place = folders(&["dogs", "cats"]);
    let images = LabelledImages::open(place.path(), &ImageKeys::default(), None).unwrap();
    assert_eq!((images.labels(), images.len()), (&["cats".to_owned(), "dogs".into()][..], 3));
    assert_eq!((0..3).map(|index| images.class(index)).collect::<Vec<_>>(), [0, 0, 1]);
    let known = ["dogs", "cats", "birds"].map(str::to_owned);
    let named = LabelledImages::open(place.path(), &ImageKeys::default(), Some(&known)).unwrap();
    assert_eq!((0..3).map(|index| named.class(index)).collect::<Vec<_>>(), [1, 1, 0]);
    assert_ne!(named.fingerprint(), images.fingerprint());
}

#[test]
fn idx_files_are_grey_images() {
    let place = idx();
    let images = LabelledImages::open(
        &place.path().join("t-images-idx3-ubyte"),
        &ImageKeys::default(),
        None,
    )
    .unwrap();
    assert_eq!((images.labels().join(" "), images.len(), images.class(2)), ("0 1 2".into(), 3, 2));
    let grey = ImageProcessor::new(None, 1, [2, 3]).unwrap().batch(&images, &[1, 0], None).unwrap();
    let expected: Vec<f32> = [6, 7, 8, 9, 10, 11, 0, 1, 2, 3, 4, 5]
        .map(|tens| tens as f32 * 10.0 / 127.5 - 1.0)
        .to_vec();
    assert!(
        grey.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-6) && grey.len() == 12,
        "{grey:?}"
    );
    let colour = ImageProcessor::new(None, 3, [2, 3]).unwrap().batch(&images, &[1], None).unwrap();
    assert_eq!(colour, [&grey[..6], &grey[..6], &grey[..6]].concat());
}

#[test]
fn parquet_files_hold_image_files_and_name_classes() {
    let file = fixtures().join("../parquet/images.parquet");
    let images = LabelledImages::open(&file, &ImageKeys::default(), None).unwrap();
    assert_eq!(images.labels(), ["cat", "dog"]);
    assert_eq!((0..images.len()).map(|index| images.class(index)).collect::<Vec<_>>(), [1, 0, 0]);
    let made = ImageProcessor::new(None, 3, [2, 3]).unwrap().batch(&images, &[2, 0], None).unwrap();
    let expected: Vec<f32> =
        [80, 90, 100, 0, 10, 20].iter().flat_map(|byte| [*byte as f32 / 127.5 - 1.0; 6]).collect();
    assert!(
        made.len() == 36 && made.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-6),
        "{made:?}"
    );
    let open = |image: &str, label: &str| {
        let keys = ImageKeys { image: image.into(), label: label.into() };
        LabelledImages::open(&file, &keys, Some(&["dog".into()])).unwrap_err().to_string()
    };
    assert!(
        open("photo", "label").contains("no column `photo`, but label, image"),
        "{}",
        open("photo", "label")
    );
    assert!(
        open("label", "label").contains("`label` has no bytes of an image, at"),
        "{}",
        open("label", "label")
    );
    assert!(open("image", "label").contains("images.parquet:1"), "{}", open("image", "label"));
}

#[test]
fn chance_is_the_seed_and_the_number_of_the_image() {
    let place = idx();
    let images = LabelledImages::open(
        &place.path().join("t-images-idx3-ubyte"),
        &ImageKeys::default(),
        None,
    )
    .unwrap();
    let processor = ImageProcessor::new(None, 1, [2, 3]).unwrap();
    let batch = |augmentation, seed| {
        processor.batch(&images, &[0, 1, 2], Some((augmentation, seed))).unwrap()
    };
    let plain = batch(Augmentation::default(), 1);
    let flip = Augmentation { flip: true, crop: None };
    let mut mirrored = 0;
    for seed in 0..200 {
        let made = batch(flip, seed);
        assert_eq!(made, batch(flip, seed), "drawn again the same");
        for (made, plain) in made.chunks(6).zip(plain.chunks(6)) {
            let turned = [plain[2], plain[1], plain[0], plain[5], plain[4], plain[3]];
            assert!(made == plain || made == turned);
            mirrored += usize::from(made == turned);
        }
    }
    // 600 draws of a half: six standard deviations are 74.
    assert!((226..=374).contains(&mirrored), "{mirrored}");

    let crop = Augmentation { flip: false, crop: Some([0.25, 0.5]) };
    let (mut areas, sizes) = (Vec::new(), [64, 48]);
    for index in 0..200 {
        let [left, top, across, down] = crop.draw(7, index, sizes).area.unwrap();
        assert!(left + across <= 64 && top + down <= 48);
        let (part, ratio) =
            (f64::from(across * down) / (64.0 * 48.0), f64::from(across) / f64::from(down));
        assert!((0.23..=0.52).contains(&part) && (0.7..=1.4).contains(&ratio), "{part} {ratio}");
        areas.push(part);
    }
    let mean = areas.iter().sum::<f64>() / areas.len() as f64;
    assert!((mean - 0.375).abs() < 0.03, "{mean}");
}

#[test]
fn what_is_wrong_is_one_line_with_its_place() {
    let refused = |path: &Path, labels: Option<&[String]>, parts: &[&str]| {
        let error =
            LabelledImages::open(path, &ImageKeys::default(), labels).unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)) && !error.contains('\n'), "{error}");
    };
    let place = folders(&["dogs", "cats"]);
    refused(
        place.path(),
        Some(&["dogs".into(), "birds".into()]),
        &["named after no class", "dogs, birds", "cats"],
    );
    refused(&place.path().join("dogs"), None, &["holds no images in folders", "dogs"]);
    let whole = fs::read(place.path().join("cats/1.PNG")).unwrap();
    fs::write(place.path().join("cats/1.PNG"), "no image").unwrap();
    refused(place.path(), None, &["no image that can be read", "cats/1.PNG"]);
    // One that only begins as an image is found when it is read.
    fs::write(place.path().join("cats/1.PNG"), &whole[..whole.len() / 2]).unwrap();
    let images = LabelledImages::open(place.path(), &ImageKeys::default(), None).unwrap();
    let error = ImageProcessor::new(None, 3, [4, 4])
        .unwrap()
        .batch(&images, &[0, 1], None)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("no image that can be read")
            && error.contains("cats/1.PNG")
            && !error.contains('\n'),
        "{error}"
    );

    let place = idx();
    let images = place.path().join("t-images-idx3-ubyte");
    refused(&images, Some(&["a".into(), "b".into()]), &["image 2 is of class 2", "2 labels"]);
    refused(
        &place.path().join("t-labels-idx1-ubyte"),
        None,
        &["no IDX file of bytes in 3 dimensions", "t-labels"],
    );
    fs::write(place.path().join("t-labels-idx1-ubyte"), [0, 0, 8, 1, 0, 0, 0, 2, 1, 0]).unwrap();
    refused(&images, None, &["holds 2 labels", "3 images"]);
    fs::write(&images, &fs::read(&images).unwrap()[..20]).unwrap();
    refused(&images, None, &["says that it holds 18 bytes, and holds 4"]);
    fs::write(&images, [0x1f, 0x8b, 8, 0]).unwrap();
    refused(&images, None, &["cannot be unpacked"]);
    fs::remove_file(place.path().join("t-labels-idx1-ubyte")).unwrap();

    let file = place.path().join("preprocessor_config.json");
    for (text, part) in [
        (r#"{"do_pad": true}"#, "`do_pad` true is not supported"),
        (r#"{"size": {"longest_edge": 3}}"#, "`size` is {\"longest_edge\":3}, and no size"),
        (r#"{"resample": 9}"#, "`resample` is none of"),
        (r#"{"image_std": [0.5, 0]}"#, "`image_std`"),
        (r#"{"do_resize": "yes"}"#, "neither true nor false"),
        (r#"{"size": 8}"#, "makes images of 8 x 8 pixels, and the model reads 4 x 4"),
        (r#"{"size": 4, "image_mean": [0.1, 0.2]}"#, "2 means"),
        ("[]", "not a JSON table"),
    ] {
        fs::write(&file, text).unwrap();
        let error = ImageProcessor::new(Some(&file), 3, [4, 4]).unwrap_err().to_string();
        assert!(
            error.contains(part)
                && error.contains("preprocessor_config.json")
                && !error.contains('\n'),
            "{error}"
        );
    }
}

/// A file of a few bytes that becomes large, or says that it will.
#[test]
fn what_unpacks_to_more_than_it_says_or_than_is_read_is_refused() {
    let place = idx();
    let images = place.path().join("t-images-idx3-ubyte");
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&[0, 0, 8, 3, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 3]).unwrap();
    (0..256).for_each(|_| packed.write_all(&[0; 1 << 20]).unwrap());
    fs::write(&images, packed.finish().unwrap()).unwrap();
    let error = || {
        LabelledImages::open(&images, &ImageKeys::default(), None)
            .map(|_| ())
            .unwrap_err()
            .to_string()
    };
    assert!(error().contains("says that it holds 18 bytes, and holds more"), "{}", error());
    fs::write(&images, [&[0, 0, 8, 3][..], &[255; 12]].concat()).unwrap();
    assert!(error().contains("at most 2147483648 are read"), "{}", error());

    let place = folders(&["dogs", "cats"]);
    let mut header = b"IHDR\0\0\x75\x30\0\0\x3a\x98\x08\0\0\0\0".to_vec();
    let mut checksum = flate2::Crc::new();
    checksum.update(&header);
    header.extend(checksum.sum().to_be_bytes());
    let end = b"\0\0\0\x01IDAT\0\0\0\0\0";
    let png = [b"\x89PNG\r\n\x1a\n\0\0\0\x0d", &header[..], end].concat();
    fs::write(place.path().join("cats/1.PNG"), png).unwrap();
    let images = LabelledImages::open(place.path(), &ImageKeys::default(), None).unwrap();
    let error = (0..images.len()).find_map(|index| images.image(index).err()).unwrap().to_string();
    assert!(error.contains("30000 × 15000 pixels, more than 50000000"), "{error}");
}
