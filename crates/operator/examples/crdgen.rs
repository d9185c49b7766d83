fn main() {
    for crd in operator::crd::crds() {
        let name = crd.metadata.name.clone().unwrap();
        std::fs::write(format!("charts/headwater-crds/files/{}.yaml", name.split('.').next().unwrap()), operator::crd::to_yaml(&crd).unwrap()).unwrap();
        println!("{name}");
    }
}
