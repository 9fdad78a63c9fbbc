//! Who makes faults happen: [`Conductor`].

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use fshipper_testing::Direction;

use crate::actor::{Actor, Seen};
use crate::fault::{Fault, Way, Who};
use crate::run::Settings;
use crate::schedule::{Event, Schedule};
use crate::stage::Stage;

/// How exactly faults come at their times.
const TICK: Duration = Duration::from_millis(5);

/// How often memory is measured and outputs are looked at: both cost a little.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Of two instances one has left after so long, in which neither reached a broker that was down.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(60);

/// What was begun has ended after so long: stops and refusals have deadlines of their own before that.
const OVERTIME: Duration = Duration::from_secs(120);

/// Plays a schedule on a stage.
#[derive(Debug)]
pub(crate) struct Conductor<'a> {
    stage: &'a mut Stage,
    journal: File,
    verbose: bool,
    interrupted: Arc<AtomicBool>,
    start: Instant,
    /// By their times, and in the order in which they were planned.
    steps: BTreeMap<(Duration, u64), Step>,
    planned: u64,
    next_look: Duration,
    /// Who was asked to stop, and how long each stays down.
    stopping: BTreeMap<Who, Duration>,
    seconds: BTreeMap<Who, Actor>,
    /// Second instances that were asked to stop.
    leaving: Vec<Actor>,
    /// How often each kind of fault was done.
    pub(crate) done: BTreeMap<&'static str, u64>,
    /// How often each kind could not be.
    pub(crate) skipped: BTreeMap<&'static str, u64>,
}

/// A fault, or its end.
#[derive(Clone, Copy, Debug)]
enum Step {
    Begin(Fault),
    Start(Who),
    KillAgain { who: Who, lives: u32, life: Duration },
    Resume(Who),
    Mend { who: Who, cut: bool },
    FreeDisk(usize),
    EndSecond { who: Who, stop: bool, patience: Duration },
    SetClock(Who),
}

impl<'a> Conductor<'a> {
    /// Notes what happens in `journal`.
    pub(crate) fn new(stage: &'a mut Stage, journal: &Path, settings: &Settings) -> Result<Self> {
        let journal = File::create(journal).with_context(|| format!("cannot create {journal:?}"))?;
        Ok(Self {
            stage,
            journal,
            verbose: settings.verbose,
            interrupted: settings.interrupted.clone(),
            start: Instant::now(),
            steps: BTreeMap::new(),
            planned: 0,
            next_look: Duration::ZERO,
            stopping: BTreeMap::new(),
            seconds: BTreeMap::new(),
            leaving: Vec::new(),
            done: BTreeMap::new(),
            skipped: BTreeMap::new(),
        })
    }

    /// Starts everything, and makes faults happen until all of them are over and `span` has passed.
    ///
    /// # Errors
    ///
    /// When a process does what it should not, or a fault cannot be done.
    pub(crate) fn play(&mut self, schedule: &Schedule, span: Duration) -> Result<()> {
        for Event { at, fault } in &schedule.events {
            self.plan(*at, Step::Begin(*fault));
        }
        for who in self.stage.actors.keys().copied().collect::<Vec<_>>() {
            self.stage.start(who)?;
        }
        self.start = Instant::now();
        loop {
            let now = self.start.elapsed();
            while let Some(step) = self.steps.first_entry().filter(|step| step.key().0 <= now) {
                let step = step.remove();
                self.step(step).with_context(|| format!("cannot do `{step:?}`"))?;
            }
            self.look()?;
            let quiet = self.steps.is_empty() && self.stopping.is_empty() && self.seconds.is_empty();
            if quiet && self.leaving.is_empty() && now >= span {
                return Ok(());
            }
            if now > span + OVERTIME {
                bail!("faults go on {OVERTIME:?} after their end");
            }
            thread::sleep(TICK);
        }
    }

    /// Lets everything run until `condition` holds; `false` when `patience` ran out first.
    pub(crate) fn wait(
        &mut self,
        patience: Duration,
        mut condition: impl FnMut(&mut Stage) -> Result<bool>,
    ) -> Result<bool> {
        let until = Instant::now() + patience;
        while !condition(self.stage)? {
            if Instant::now() > until {
                return Ok(false);
            }
            self.look()?;
            thread::sleep(10 * TICK);
        }
        Ok(true)
    }

    /// Kills all but the broker, starts them again, and lets them run for `span`: what comes late, or once more after a
    /// restart that has nothing to do, comes now.
    pub(crate) fn encore(&mut self, span: Duration) -> Result<()> {
        for who in self.stage.actors.keys().copied().collect::<Vec<_>>() {
            self.kill(who)?;
            self.stage.start(who)?;
        }
        let end = Instant::now() + span;
        self.wait(span, |_| Ok(Instant::now() >= end)).map(drop)
    }

    /// SIGTERM for everybody, and the wait for their ends.
    pub(crate) fn bring_down(&mut self) -> Result<()> {
        self.stage.actors.values_mut().for_each(Actor::stop);
        while self.stage.actors.values().any(|actor| !actor.is_down()) {
            self.stage.actors.values_mut().try_for_each(|actor| actor.look().map(drop))?;
            thread::sleep(TICK);
        }
        Ok(())
    }

    /// Notes something with its time.
    pub(crate) fn note(&mut self, what: &dyn Display) -> Result<()> {
        let line = format!("t={:.3} {what}\n", self.start.elapsed().as_secs_f64());
        if self.verbose {
            // Nothing depends on whether somebody reads along.
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
        self.journal.write_all(line.as_bytes()).context("cannot write the journal")
    }

    pub(crate) fn stage(&mut self) -> &mut Stage {
        self.stage
    }

    fn plan(&mut self, at: Duration, step: Step) {
        self.planned += 1;
        self.steps.insert((at, self.planned), step);
    }

    fn plan_in(&mut self, span: Duration, step: Step) {
        self.plan(self.start.elapsed() + span, step);
    }

    fn look(&mut self) -> Result<()> {
        ensure!(!self.interrupted.load(Ordering::Relaxed), "interrupted");
        let now = self.start.elapsed();
        if now >= self.next_look {
            self.next_look = now + LOOK_EVERY;
            self.stage.actors.values_mut().for_each(Actor::measure);
            self.stage.look_for_arrivals()?;
        }
        let mut news = Vec::new();
        for actor in self.stage.actors.values_mut() {
            news.push((actor.who, actor.look()?));
        }
        for (who, seen) in news {
            match seen {
                Seen::Same => {}
                Seen::Stopped => {
                    let down = self.stopping.remove(&who).unwrap_or_default();
                    self.plan_in(down, Step::Start(who));
                }
                Seen::Refused if self.seconds.contains_key(&who) => {
                    self.note(&format_args!("{who} left the second one alone"))?;
                }
                Seen::Refused => bail!("{who} was refused although nobody else does its work"),
            }
        }
        let mut refused = Vec::new();
        for (who, second) in &mut self.seconds {
            if second.look().context("the second one")? == Seen::Refused {
                refused.push(*who);
            }
        }
        for who in refused {
            self.seconds.remove(&who);
            self.note(&format_args!("the second {who} was refused"))?;
        }
        for second in &mut self.leaving {
            second.look().context("the second one")?;
        }
        self.leaving.retain(|second| !second.is_down());
        Ok(())
    }

    fn step(&mut self, step: Step) -> Result<()> {
        match step {
            Step::Begin(fault) => self.begin(fault)?,
            Step::Start(who) => self.stage.start(who)?,
            Step::KillAgain { who, lives, life } => {
                self.kill(who)?;
                self.stage.start(who)?;
                if lives > 1 {
                    self.plan_in(life, Step::KillAgain { who, lives: lives - 1, life });
                }
            }
            Step::Resume(who) => self.stage.pause(who, false)?,
            Step::Mend { who, cut } => {
                let proxy = self.stage.proxy(who)?;
                if cut {
                    proxy.cut();
                }
                proxy.resume();
            }
            Step::FreeDisk(consumer) => match self.stage.disks.get(consumer) {
                Some(disk) => disk.free()?,
                None => bail!("consumer {consumer} has no disk of its own"),
            },
            Step::EndSecond { who, stop, patience } => self.end_second(who, stop, patience)?,
            Step::SetClock(who) => self.stage.set_clock(who, 0)?,
        }
        Ok(())
    }

    fn begin(&mut self, fault: Fault) -> Result<()> {
        let possible = match fault {
            Fault::FillDisk { consumer, .. } => consumer < self.stage.disks.len(),
            Fault::JumpClock { .. } => self.stage.has_clocks,
            // Whoever is about to leave or to be replaced has no second.
            Fault::Second { who, .. } => {
                !self.stage.actor(who)?.is_down() && !self.seconds.contains_key(&who)
            }
            _ => true,
        };
        if !possible {
            *self.skipped.entry(fault.kind()).or_default() += 1;
            return self.note(&format_args!("skipped: {fault}"));
        }
        *self.done.entry(fault.kind()).or_default() += 1;
        self.note(&fault)?;
        match fault {
            Fault::Kill { who, down } => {
                self.kill(who)?;
                self.plan_in(down, Step::Start(who));
            }
            Fault::KillAgain { who, lives, life } => {
                self.kill(who)?;
                self.stage.start(who)?;
                self.plan_in(life, Step::KillAgain { who, lives, life });
            }
            Fault::Stop { who: Who::Broker, down } => {
                self.stage.broker.stop();
                self.plan_in(down, Step::Start(Who::Broker));
            }
            Fault::Stop { who, down } => {
                let actor = self.stage.actor(who)?;
                // It may be down already, because a second one does its work.
                if !actor.is_down() {
                    actor.stop();
                    self.stopping.insert(who, down);
                }
            }
            Fault::Pause { who, span } => {
                self.stage.pause(who, true)?;
                self.plan_in(span, Step::Resume(who));
            }
            Fault::HangUp { who } => self.stage.actor(who)?.hang_up(),
            Fault::Cut { who } => self.stage.proxy(who)?.cut(),
            Fault::HalfOpen { who } => self.stage.proxy(who)?.abandon(),
            Fault::Refuse { who, span } => {
                self.stage.proxy(who)?.refuse();
                self.plan_in(span, Step::Mend { who, cut: false });
            }
            Fault::Stall { who, way, span, cut } => {
                let proxy = self.stage.proxy(who)?;
                if way != Way::Back {
                    proxy.stall(Direction::ToServer);
                }
                if way != Way::There {
                    proxy.stall(Direction::ToClient);
                }
                self.plan_in(span, Step::Mend { who, cut });
            }
            Fault::Slow { who, span, bytes_per_second, delay } => {
                self.stage.proxy(who)?.slow(bytes_per_second, delay);
                self.plan_in(span, Step::Mend { who, cut: false });
            }
            Fault::WipeBroker { down } => {
                self.stage.broker.kill();
                remove(&self.stage.broker_store())?;
                self.plan_in(down, Step::Start(Who::Broker));
            }
            Fault::ForgetState { producer, rotations, down } => {
                let who = Who::Producer(producer);
                self.kill_and_remove(who, "state")?;
                self.stage.authors[producer].rotate(rotations)?;
                self.plan_in(down, Step::Start(who));
            }
            Fault::ForgetLedger { consumer, down } => {
                let who = Who::Consumer(consumer);
                self.kill_and_remove(who, "out/.fshipper")?;
                self.plan_in(down, Step::Start(who));
            }
            Fault::FillDisk { consumer, span, room_bytes } => {
                self.stage.disks[consumer].fill(room_bytes)?;
                self.plan_in(span, Step::FreeDisk(consumer));
            }
            Fault::Second { who, own_state, span } => self.begin_second(who, own_state, span)?,
            Fault::RotateWhileDown { producer, rotations, down } => {
                let who = Who::Producer(producer);
                self.kill(who)?;
                self.stage.authors[producer].rotate(rotations)?;
                self.plan_in(down, Step::Start(who));
            }
            Fault::JumpClock { who, seconds, span } => {
                self.stage.set_clock(who, seconds)?;
                self.plan_in(span, Step::SetClock(who));
            }
        }
        Ok(())
    }

    /// SIGKILL, also for whoever was asked to stop and has not yet.
    fn kill(&mut self, who: Who) -> Result<()> {
        self.stopping.remove(&who);
        self.stage.kill(who)
    }

    fn kill_and_remove(&mut self, who: Who, what: &str) -> Result<()> {
        self.kill(who)?;
        remove(&self.stage.folder(who).join(what))
    }

    fn begin_second(&mut self, who: Who, own_state: bool, span: Duration) -> Result<()> {
        let state = self.stage.folder(who).join("second-state");
        if own_state {
            remove(&state)?;
        }
        let mut second = self.stage.actor(who)?.second(own_state.then_some(state.as_path()));
        second.start();
        self.seconds.insert(who, second);
        // Nobody refuses a second producer that only shares the logs with the first.
        let stays = own_state && matches!(who, Who::Producer(_));
        let patience = if stays { Duration::ZERO } else { REFUSAL_PATIENCE };
        self.plan_in(span, Step::EndSecond { who, stop: span.as_millis().is_multiple_of(2), patience });
        Ok(())
    }

    fn end_second(&mut self, who: Who, stop: bool, patience: Duration) -> Result<()> {
        const AGAIN: Duration = Duration::from_millis(100);
        let first_left = self.stage.actor(who)?.is_down() && !self.is_expected(who);
        let must_leave = self.seconds.contains_key(&who) && !patience.is_zero() && !first_left;
        if must_leave {
            let Some(patience) = patience.checked_sub(AGAIN).filter(|rest| !rest.is_zero()) else {
                bail!("two of {who} run side by side, and nobody is refused");
            };
            self.plan_in(AGAIN, Step::EndSecond { who, stop, patience });
            return Ok(());
        }
        if let Some(mut second) = self.seconds.remove(&who) {
            if stop {
                second.stop();
                self.leaving.push(second);
            } else {
                second.kill();
            }
        }
        if first_left {
            self.plan_in(AGAIN, Step::Start(who));
        }
        Ok(())
    }

    /// Whether somebody who is down is about to be started.
    fn is_expected(&self, who: Who) -> bool {
        let starts = |step: &Step| match step {
            Step::Start(other) | Step::KillAgain { who: other, .. } => *other == who,
            _ => false,
        };
        self.stopping.contains_key(&who) || self.steps.values().any(starts)
    }
}

fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {directory:?}"))
        }
        _ => Ok(()),
    }
}
