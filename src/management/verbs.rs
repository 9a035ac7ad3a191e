//! Requests that change something run to their end, whatever becomes of the client: one that goes away, or loses
//! patience, must not leave half of a verb behind. The answer of a verb that takes long is kept, to be asked for.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::error::ApiError;
use super::server::Api;
use crate::mutation::{self, Mutation};

/// How long a client waits for one answer before it is told to ask again: less than clients and
/// `bounds::ANSWER_WITHIN` allow.
const PATIENCE: Duration = Duration::from_secs(45);
/// Verbs under way at once, those whose clients are gone among them: an array has few operators.
const RUNNING_MAX: usize = 64;
/// Answers that wait to be asked for.
const KEPT_MAX: usize = 64;
/// Where they are asked for.
pub const RESOURCE: &str = "/api/twinlun/verbs";

/// The verbs that outlasted their clients' patience.
#[derive(Clone, Debug)]
pub struct Verbs {
    free: Arc<Semaphore>,
    next: Arc<AtomicU64>,
    kept: Arc<Mutex<BTreeMap<u64, JoinHandle<Response>>>>,
    patience: Duration,
}

impl Default for Verbs {
    fn default() -> Self {
        Self::with(RUNNING_MAX, PATIENCE)
    }
}

impl Verbs {
    fn with(running: usize, patience: Duration) -> Self {
        let free = Arc::new(Semaphore::new(running));
        Self { free, next: Arc::new(AtomicU64::new(1)), kept: Arc::default(), patience }
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<u64, JoinHandle<Response>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a verb, and waits for it as long as a client does.
    async fn begin(&self, verb: impl Future<Output = Response> + Send + 'static) -> Response {
        let Ok(place) = Arc::clone(&self.free).try_acquire_owned() else {
            let desc = format!("{RUNNING_MAX} requests are being carried out; try again when some are over");
            return ApiError::new(503, 1, desc).into_response();
        };
        let running = tokio::spawn(async move {
            let answer = verb.await;
            drop(place);
            answer
        });
        self.wait(self.next.fetch_add(1, Ordering::Relaxed), running).await
    }

    async fn wait(&self, number: u64, mut running: JoinHandle<Response>) -> Response {
        match tokio::time::timeout(self.patience, &mut running).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => ApiError::new(503, 1, "the array is shutting down").into_response(),
            Err(_) => {
                let mut kept = self.kept();
                while kept.len() >= KEPT_MAX {
                    kept.pop_first(); // it goes on; nobody has asked for longest
                }
                kept.insert(number, running);
                drop(kept);
                let at = format!("{RESOURCE}/{number}");
                let desc = format!("this takes long and goes on by itself; GET {at} waits for its end");
                (StatusCode::ACCEPTED, [(header::LOCATION, at)], axum::Json(json!({"desc": desc})))
                    .into_response()
            }
        }
    }

    /// Waits for the end of a verb that was begun before.
    async fn await_end(&self, number: u64) -> Response {
        let running = self.kept().remove(&number);
        match running {
            Some(running) => self.wait(number, running).await,
            None => ApiError::new(404, 11, "no such request is under way, or its answer was given already")
                .into_response(),
        }
    }
}

/// Whatever is no reading goes on without its client.
pub async fn to_its_end(State(api): State<Api>, request: Request, next: Next) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD) || mutation::on(Mutation::VerbEndsWithClient) {
        return next.run(request).await;
    }
    api.verbs.begin(next.run(request)).await
}

/// `GET /api/twinlun/verbs/NUMBER`: its answer, or once more 202.
pub async fn answer(State(api): State<Api>, Path(number): Path<u64>) -> Response {
    api.verbs.await_end(number).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    fn run<T>(test: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
    }

    /// A verb that ends when it is told to.
    fn verb() -> (oneshot::Sender<()>, impl Future<Output = Response> + Send + 'static) {
        let (end, wait) = oneshot::channel::<()>();
        let verb = async move {
            let _ = wait.await;
            StatusCode::CREATED.into_response()
        };
        (end, verb)
    }

    #[test]
    fn a_verb_outlives_its_client_and_its_place_is_free_afterwards() {
        run(async {
            let verbs = Verbs::with(1, Duration::from_secs(60));
            let (end, slow) = verb();
            let client = verbs.begin(slow);
            assert!(tokio::time::timeout(Duration::from_millis(20), client).await.is_err(), "it went away");
            assert_eq!(verbs.begin(verb().1).await.status(), StatusCode::SERVICE_UNAVAILABLE, "it runs on");
            end.send(()).unwrap();
            tokio::time::timeout(Duration::from_secs(10), verbs.free.acquire())
                .await
                .unwrap()
                .unwrap()
                .forget();
        });
    }

    #[test]
    fn a_patient_client_asks_until_the_answer_is_there_and_gets_it_once() {
        run(async {
            let verbs = Verbs::with(4, Duration::from_millis(20));
            let (end, slow) = verb();
            let first = verbs.begin(slow).await;
            assert_eq!(first.status(), StatusCode::ACCEPTED);
            assert_eq!(first.headers()[header::LOCATION], "/api/twinlun/verbs/1");
            assert_eq!(verbs.await_end(1).await.status(), StatusCode::ACCEPTED, "not yet");
            end.send(()).unwrap();
            assert_eq!(verbs.await_end(1).await.status(), StatusCode::CREATED);
            assert_eq!(verbs.await_end(1).await.status(), StatusCode::NOT_FOUND);
        });
    }

    #[test]
    fn answers_that_nobody_asks_for_are_bounded() {
        run(async {
            let verbs = Verbs::with(2 * KEPT_MAX, Duration::from_millis(1));
            let mut ends = Vec::new();
            for _ in 0..KEPT_MAX + 3 {
                let (end, slow) = verb();
                ends.push(end);
                verbs.begin(slow).await;
            }
            assert_eq!(verbs.kept().len(), KEPT_MAX);
            assert_eq!(verbs.await_end(1).await.status(), StatusCode::NOT_FOUND, "the oldest went first");
        });
    }
}
