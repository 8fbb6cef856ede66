//! Volumes as the kubelet lays them out.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

/// Turns the volume at `dir`, new or not, to these files: they lie in the folder `generation`, to
/// which the link `..data` leads from one moment to the next, and a link beside it for each.
pub fn turn<T: AsRef<[u8]>>(dir: &Path, generation: &str, files: &[(&str, T)]) {
    let folder = dir.join(generation);
    fs::create_dir_all(&folder).unwrap();
    for (name, content) in files {
        fs::write(folder.join(name), content).unwrap();
        if fs::symlink_metadata(dir.join(name)).is_err() {
            symlink(Path::new("..data").join(name), dir.join(name)).unwrap();
        }
    }
    symlink(generation, dir.join("..data_tmp")).unwrap();
    fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
}
