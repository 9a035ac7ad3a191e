use std::fs;
use std::os::unix::fs::PermissionsExt;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::pairing::Told;
use super::*;

/// A directory with a key, of the site `array NAME`.
fn made(at: &Path, name: &str) -> Directory {
    let directory = Directory::new(&at.join(name));
    directory.make_own(&Site::array(name), &[], false).unwrap();
    directory
}

fn own(keys: &Directory, name: &str) -> cards::Own {
    keys.own_of(&Site::array(name)).unwrap()
}

/// The end `name`, which knows the cards of `others` and believes `whom`.
fn end(at: &Path, name: &str, others: &[&str], whom: Whom) -> Arc<Tls> {
    let directory = made(at, name);
    for other in others {
        directory.add(&own(&made(at, other), other).card, &[]).unwrap();
    }
    Tls::open(directory.path(), Site::array(name), whom).unwrap()
}

/// What the listening end says of a caller.
async fn meet(listening: Arc<Tls>, calling: Arc<Tls>) -> io::Result<Site> {
    Ok(shown(listening, calling).await?.site)
}

async fn shown(listening: Arc<Tls>, calling: Arc<Tls>) -> io::Result<Shown> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let caller = tokio::spawn(async move {
        let (mut stream, _) = calling.connect(TcpStream::connect(address).await?).await?;
        stream.write_all(&[7]).await?;
        stream.flush().await?;
        stream.read_u8().await
    });
    let (stream, _) = listener.accept().await.unwrap();
    let (mut stream, shown) = listening.accept(stream).await?;
    let heard = stream.read_u8().await?;
    stream.write_all(&[heard]).await?;
    stream.flush().await?;
    caller.await.unwrap()?;
    Ok(shown)
}

#[tokio::test]
async fn only_cards_of_the_right_site_are_believed_by_either_end() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let any = || Whom::AnyArray;
    let site = meet(end(at, "w", &["a"], any()), end(at, "a", &["w"], any())).await.unwrap();
    assert_eq!(site.to_string(), "array a");
    let stranger = meet(end(at, "w", &["a"], any()), end(at, "x", &["w"], any())).await.unwrap_err();
    assert!(stranger.to_string().contains("twinlun pair"), "{stranger}");
    // The caller refuses a false listener too.
    assert!(meet(end(at, "x", &["a"], any()), end(at, "b", &["w"], any())).await.is_err());
    // A card that is there, of another site than the one that is meant.
    let other = end(at, "c", &["a", "w"], Whom::Array("w".into()));
    assert!(meet(other, end(at, "a", &["c"], any())).await.is_err());
    assert!(
        Tls::open(&at.join("a"), Site::array("a"), Whom::AnyWitness)
            .unwrap_err()
            .to_string()
            .contains("any witness")
    );
}

#[tokio::test]
async fn a_site_that_is_paired_later_is_believed_without_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let witness = end(at, "w", &["a"], Whom::AnyArray);
    let late = end(at, "late", &["w"], Whom::AnyArray);
    tokio::time::sleep(REFRESH).await;
    meet(Arc::clone(&witness), Arc::clone(&late)).await.unwrap_err();
    tokio::time::sleep(REFRESH).await;
    Directory::new(&at.join("w")).add(&own(&made(at, "late"), "late").card, &[]).unwrap();
    meet(Arc::clone(&witness), Arc::clone(&late)).await.unwrap_err();
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        if meet(Arc::clone(&witness), Arc::clone(&late)).await.is_ok() {
            return;
        }
    }
    panic!("never believed");
}

#[test]
fn a_key_is_made_once_kept_private_and_replaced_when_asked() {
    let directory = tempfile::tempdir().unwrap();
    let keys = Directory::new(&directory.path().join("tls"));
    let a = Site::array("a");
    let first = keys.make_own(&a, &["192.0.2.1".into()], false).unwrap().card;
    assert!(!first.to_string().contains("PRIVATE"), "{first}");
    assert_eq!(Card::parse(&first.to_string()).unwrap(), first);
    assert_eq!(keys.make_own(&a, &[], false).unwrap().card, first);
    let path = keys.path().join("own.key");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_ne!(keys.make_own(&a, &[], true).unwrap().card, first);
    let other = keys.make_own(&Site::witness("a"), &[], false).unwrap_err().to_string();
    assert!(other.contains("array a") && other.contains("witness a"), "{other}");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(keys.own_of(&a).unwrap_err().to_string().contains("chmod 600"));
}

#[test]
fn what_is_no_card_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let keys = made(directory.path(), "a");
    let card = own(&keys, "a").card.to_string();
    for (text, why) in [
        (card.replace("twinlun array a", "twinlun array A/../b"), "names no site"),
        (card.replace("twinlun array a", "from somewhere"), "does not say whose"),
        (card.replace("BEGIN", "BEGAN"), "no certificate of a site"),
    ] {
        fs::write(keys.path().join("x.pem"), text).unwrap();
        let said = keys.cards().unwrap_err().to_string();
        assert!(said.contains(why) && said.contains("x.pem"), "{said}");
    }
}

/// Three sites: one listens, two join; with `code` changed by the test before the second joins.
async fn pair(change: impl Fn(Code) -> Code) -> (Result<Vec<Card>, PairingError>, Vec<Told>) {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().to_owned();
    let (codes, mut code) = tokio::sync::mpsc::unbounded_channel();
    let hosted = at.clone();
    let host = tokio::spawn(async move {
        let mut told = Vec::new();
        let keys = made(&hosted, "w");
        let own = own(&keys, "w");
        let keep = |cards: &[Card]| cards.iter().try_for_each(|card| keys.add(card, &[]).map(drop));
        let ended = host(
            "127.0.0.1:0".parse().unwrap(),
            own,
            2,
            |_| Ok(()),
            keep,
            |now| {
                if let Told::Ready(code) = &now {
                    codes.send(code.clone()).unwrap();
                }
                told.push(now);
            },
        );
        let ended = timeout(ended).await;
        (ended, told)
    });
    let code = code.recv().await.unwrap();
    let guest = |name: &'static str, code: Code| {
        let at = at.clone();
        async move {
            let keys = made(&at, name);
            let keep = |cards: &[Card]| cards.iter().try_for_each(|card| keys.add(card, &[]).map(drop));
            timeout(join(&code, own(&keys, name), keep, || ())).await
        }
    };
    let first = tokio::spawn(guest("a", code.clone()));
    let second = guest("b", change(code)).await;
    if second.is_ok() {
        first.await.unwrap().unwrap();
        for (own, others) in [("w", ["a", "b"]), ("a", ["b", "w"]), ("b", ["a", "w"])] {
            let cards = Directory::new(&at.join(own)).cards().unwrap();
            let names: Vec<_> = cards.iter().map(|card| card.site.name.as_str()).collect();
            assert_eq!(names, others);
        }
        let (ended, told) = host.await.unwrap();
        return (ended, told);
    }
    host.abort();
    (second, Vec::new())
}

async fn timeout(
    work: impl std::future::Future<Output = Result<Vec<Card>, PairingError>>,
) -> Result<Vec<Card>, PairingError> {
    tokio::time::timeout(Duration::from_secs(20), work).await.unwrap()
}

#[tokio::test]
async fn three_sites_exchange_their_cards_by_one_code() {
    let (ended, told) = pair(|code| code.to_string().parse().unwrap()).await;
    assert_eq!(ended.unwrap().len(), 2);
    assert!(told.contains(&Told::Joined(Site::array("b"))), "{told:?}");
}

#[tokio::test]
async fn a_wrong_secret_is_refused_and_a_false_host_learns_nothing() {
    let digit = |at: usize| {
        move |code: Code| {
            let text = code.to_string();
            let at = text.find('/').unwrap() + at;
            let other = if &text[at..=at] == "0" { "1" } else { "0" };
            format!("{}{other}{}", &text[..at], &text[at + 1..]).parse().unwrap()
        }
    };
    let (ended, _) = pair(digit(1)).await;
    assert!(matches!(ended, Err(PairingError::Refused(_))), "{ended:?}");
    let (ended, _) = pair(digit(40)).await;
    assert!(matches!(ended, Err(PairingError::NotTheHost(_))), "{ended:?}");
    assert!("192.0.2.1:5809/12".parse::<Code>().is_err());
}

#[cfg(feature = "testing")]
#[test]
fn keys_and_cards_are_there_after_a_power_failure() {
    use crate::mutation::{self, Mutation};
    use crate::sys::mounted_tests::{mounted, power_failure};

    let Some(at) = mounted("tls::tests::keys_and_cards_are_there_after_a_power_failure", &["xfs"]) else {
        return;
    };
    let site = Site::array("array-a");
    let path = at.join("deep/tls");
    let kept = |broken| {
        mutation::set(broken);
        let keys = Directory::new(&path);
        keys.make_own(&site, &[], true).unwrap();
        mutation::set(None);
        power_failure(&at);
        keys.own_of(&site).is_ok()
    };
    assert!(!kept(Some(Mutation::CardNameNotSynced)));
    assert!(kept(None));
    // Made once more: the old file or the new one, never half of one; unless its content is not flushed.
    let other = Site::witness("w");
    let card = Directory::new(&at.join("other")).make_own(&other, &[], false).unwrap().card;
    let added = |broken| {
        mutation::set(broken);
        // What a power failure has torn is no certificate, and is replaced only when that is said.
        Directory::new(&path).add(&card, std::slice::from_ref(&other.name)).unwrap();
        mutation::set(None);
        power_failure(&at);
        Directory::new(&path).cards().is_ok_and(|cards| cards == [card.clone()])
    };
    assert!(!added(Some(Mutation::CardNotFlushed)));
    assert!(added(None));
}

#[tokio::test]
async fn whoever_was_believed_is_noticed_when_its_certificate_goes() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let (witness, a) = (end(at, "w", &["a", "b"], Whom::AnyArray), end(at, "a", &["w"], Whom::AnyArray));
    let shown_a = shown(Arc::clone(&witness), a).await.unwrap();
    let shown_b = shown(witness, end(at, "b", &["w"], Whom::AnyArray)).await.unwrap();
    let within = |seconds| Duration::from_secs(seconds);
    tokio::time::timeout(within(3), shown_a.is_over()).await.unwrap_err();
    // Its key was replaced, and the new certificate brought here.
    let keys = Directory::new(&at.join("w"));
    let new = Directory::new(&at.join("a")).make_own(&Site::array("a"), &[], true).unwrap().card;
    keys.add(&new, &["a".to_owned()]).unwrap();
    tokio::time::timeout(within(10), shown_a.is_over()).await.unwrap();
    tokio::time::timeout(within(3), shown_b.is_over()).await.unwrap_err();
    fs::remove_file(at.join("w/b.array.pem")).unwrap();
    tokio::time::timeout(within(10), shown_b.is_over()).await.unwrap();
}

#[test]
fn what_others_may_change_decides_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let keys = made(directory.path(), "a");
    keys.add(&own(&made(directory.path(), "b"), "b").card, &[]).unwrap();
    assert_eq!(keys.cards().unwrap().len(), 1);
    let card = keys.path().join("b.array.pem");
    for (path, open, shut, advice) in
        [(keys.path(), 0o777, 0o700, "chmod go-w"), (card.as_path(), 0o666, 0o644, "b.array.pem")]
    {
        fs::set_permissions(path, fs::Permissions::from_mode(open)).unwrap();
        let said = keys.cards().unwrap_err().to_string();
        assert!(said.contains("written by others") && said.contains(advice), "{said}");
        fs::set_permissions(path, fs::Permissions::from_mode(shut)).unwrap();
    }
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(&card, Some(12_345), None).unwrap();
        let said = keys.cards().unwrap_err().to_string();
        assert!(said.contains("belongs to user 12345") && said.contains("b.array.pem"), "{said}");
        std::os::unix::fs::chown(&card, Some(0), None).unwrap();
    }
    let second = made(&directory.path().join("other"), "b");
    fs::write(keys.path().join("second.pem"), own(&second, "b").card.to_string()).unwrap();
    let said = keys.cards().unwrap_err().to_string();
    assert!(
        said.contains("second.pem") && said.contains("b.array.pem") && said.contains("array b"),
        "{said}"
    );
}

#[test]
fn a_site_s_certificate_is_replaced_only_when_that_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let keys = made(directory.path(), "w");
    let [first, second] = ["one", "two"].map(|at| own(&made(&directory.path().join(at), "a"), "a").card);
    assert!(!keys.add(&first, &[]).unwrap());
    assert!(!keys.add(&first, &[]).unwrap());
    for replaced in [vec![], vec!["b".to_owned()]] {
        let said = keys.add(&second, &replaced).unwrap_err().to_string();
        assert!(said.contains("--replace-site a"), "{said}");
        assert_eq!(keys.cards().unwrap(), std::slice::from_ref(&first));
    }
    assert!(keys.add(&second, &["a".to_owned()]).unwrap());
    assert_eq!(keys.cards().unwrap(), [second]);
}
