//! What the lab runs inside its guest: connects to the lab over the log network, carries out
//! shell scripts for it and drives the writers. One JSON object a line in each direction; an
//! answer repeats the `id` of its request.

#[path = "records.rs"]
mod records;
#[path = "../host/stamp.rs"]
mod stamp;
#[path = "guest/writer.rs"]
mod writer;

use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use writer::{Options, Writer};

type Writers = Arc<Mutex<HashMap<String, Arc<Writer>>>>;

fn main() -> ExitCode {
    let Some(address) = std::env::args().nth(1) else {
        eprintln!("usage: twinlun-guest ADDRESS:PORT  (of the lab that gives the orders)");
        return ExitCode::from(2);
    };
    match serve(&address) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("twinlun-guest: {address}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(address: &str) -> std::io::Result<()> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let out = Arc::new(Mutex::new(stream.try_clone()?));
    let writers = Writers::default();
    for line in BufReader::new(stream).lines() {
        let line = line?;
        let request: Value = serde_json::from_str(&line)?;
        if request["op"] == "exit" {
            break;
        }
        let (out, writers) = (Arc::clone(&out), Arc::clone(&writers));
        // One thread per request: a script may take its time while writers are ordered about.
        std::thread::spawn(move || {
            let mut answer =
                carry_out(&request, &writers).unwrap_or_else(|error| json!({ "error": error.to_string() }));
            answer["id"] = request["id"].clone();
            let mut out = out.lock().expect("no holder of the connection panics");
            if let Err(error) = writeln!(out, "{answer}") {
                eprintln!("the lab is gone: {error}");
            }
        });
    }
    Ok(())
}

fn carry_out(request: &Value, writers: &Writers) -> Result<Value, Box<dyn std::error::Error>> {
    let text =
        |key: &str| request[key].as_str().map(str::to_owned).ok_or_else(|| format!("{key} is missing"));
    let number = |key: &str| request[key].as_u64().ok_or_else(|| format!("{key} is missing"));
    let count = |key: &str| number(key).and_then(|n| usize::try_from(n).map_err(|e| e.to_string()));
    let op = text("op")?;
    if op == "sh" {
        let output = Command::new("bash").args(["-c", &text("script")?]).output()?;
        let said = [output.stdout, output.stderr].concat();
        return Ok(json!({ "rc": output.status.code(), "out": String::from_utf8_lossy(&said) }));
    }
    let name = text("name")?;
    if op == "open" {
        let writer = Writer::open(Options {
            path: text("path")?,
            stream: u8::try_from(number("stream")?)?,
            run: number("run")?,
            span_mib: count("span_mib")?,
            writers: count("writers")?,
            readers: count("readers")?,
            pause: Duration::from_micros(number("pause_us")?),
            log: text("log")?,
        })?;
        writers.lock().expect("no holder panics").insert(name, Arc::new(writer));
        return Ok(json!({}));
    }
    let writer = writers
        .lock()
        .expect("no holder panics")
        .get(&name)
        .cloned()
        .ok_or_else(|| format!("no writer {name}"))?;
    Ok(match op.as_str() {
        "run" => {
            writer.run();
            json!({})
        }
        "pause" => json!({ "paused": writer.pause(Duration::from_secs(number("limit_s")?)) }),
        "phase" => writer.phase(),
        "scan" => {
            writer.scan(number("token")?)?;
            json!({})
        }
        "close" => {
            writers.lock().expect("no holder panics").remove(&name);
            match Arc::try_unwrap(writer) {
                Ok(writer) => writer.close(),
                Err(_) => return Err("the writer is in use".into()),
            }
            json!({})
        }
        other => return Err(format!("unknown op {other}").into()),
    })
}
