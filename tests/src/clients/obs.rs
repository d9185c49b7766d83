//! OBS Studio without a screen: a profile as its first start would write it, and a display that nobody sees.

use std::{fs, path::Path, process::Command};

use serde_json::json;

use super::{Address, in_root};
use crate::process::Process;

/// Where OBS looks below its home directory.
const CONFIGURATION: &str = ".config/obs-studio";

const GLOBAL: &str = "[General]\nFirstRun=true\nLastVersion=486539266\nConfirmOnExit=false\n\
    [Basic]\nProfile=Untitled\nProfileDir=Untitled\nSceneCollection=Untitled\nSceneCollectionFile=Untitled\n";

const PROFILE: &str = "[General]\nName=Untitled\n\
    [Output]\nMode=Simple\nReconnect=true\nRetryDelay=1\nMaxRetries=2\n\
    [SimpleOutput]\nStreamEncoder=x264\nVBitrate=200\nABitrate=64\nPreset=ultrafast\n\
    [Video]\nBaseCX=320\nBaseCY=180\nOutputCX=160\nOutputCY=90\nFPSType=1\nFPSInt=15\n";

/// The display of one OBS. Its socket is an abstract one, so both have their own `/tmp`.
pub(super) fn display(work: &Path) -> Process {
    let mut command = in_root(work, "sh");
    // It says which number it found free; nothing else is told there.
    let run = "exec Xvfb -displayfd 3 -screen 0 800x600x24 -nolisten tcp 3>/mnt/display";
    command.args(["-c", run]);
    Process::spawn("xvfb", &mut command, work)
}

/// A scene without anything in it: black, and silence. Without it the first start only writes files.
fn scenes() -> serde_json::Value {
    json!({
        "name": "Untitled",
        "current_program_scene": "Scene",
        "current_scene": "Scene",
        "scene_order": [{ "name": "Scene" }],
        "sources": [{
            "id": "scene",
            "name": "Scene",
            "versioned_id": "scene",
            "prev_ver": 486_539_266,
            "settings": { "custom_size": false, "id_counter": 0, "items": [] },
        }],
    })
}

pub(super) fn command(address: &Address, work: &Path) -> Command {
    let home = work.join(CONFIGURATION);
    let profile = home.join("basic/profiles/Untitled");
    fs::create_dir_all(&profile).unwrap();
    fs::write(home.join("global.ini"), GLOBAL).unwrap();
    fs::write(profile.join("basic.ini"), PROFILE).unwrap();
    let collections = home.join("basic/scenes");
    fs::create_dir_all(&collections).unwrap();
    fs::write(collections.join("Untitled.json"), scenes().to_string()).unwrap();
    let (user, password) = address.login.clone().unwrap_or_default();
    let service = json!({
        "type": "rtmp_custom",
        "settings": {
            "server": address.server,
            "key": address.name,
            "use_auth": address.login.is_some(),
            "username": user,
            "password": password,
        },
    });
    fs::write(profile.join("service.json"), service.to_string()).unwrap();
    let mut command = in_root(work, "sh");
    let run = "until [ -s /mnt/display ]; do sleep 0.05; done
        DISPLAY=\":$(cat /mnt/display)\" exec obs --startstreaming --disable-updater --multi \
            --profile Untitled --collection Untitled";
    command.args(["-c", run]);
    command.env("QT_QPA_PLATFORM", "xcb");
    command.env("LIBGL_ALWAYS_SOFTWARE", "1");
    command.env("XDG_RUNTIME_DIR", "/tmp");
    command
}
