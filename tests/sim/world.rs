//! A model of Envoy: workers with a VM each, what they share, and the calls they make, on virtual time.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::time::Duration;

use meshgate::board::{Board, Exchange};
use meshgate::boundary::peer::Hop;
use meshgate::callout::{Answer, CallId, Dispatch, Failure, StreamId};
use meshgate::config::{Config, Secret};
use meshgate::headers::{Field, Stripped};
use meshgate::signature::Crypto;
use meshgate::time::UnixTime;
use meshgate::worker::{Disposition, Released, Worker, lay_tables};

use crate::counts::Counts;
use crate::invariants::{self, Request, Violation};
use crate::oracle::{Known, Moment, NUDGE, Oracle, VmId};
use crate::scenario::{Millis, SHARING_KEY, START, Scenario, TICK, grace};
use crate::schedule::{
    Change, Event, FaultKind, Form, Listed, Path, Revoked, Schedule, Service, Shown, TokenPlan,
    What,
};
use crate::services::{self, Sent, Services, Truth};
use crate::turns::{Asker, Turns};

/// How often a worker ticks that has nothing to do: as a busy machine would let it, and sooner done.
const IDLE_TICK: Millis = 500;
/// After all faults are over, so long passes before everything must work: the longest pause of a circuit, for a
/// lost probe once more, and a retry of the keys.
const RECOVERY: Millis = 75_000;
/// While nobody asks anything, ticks can be so far apart.
const RECOVERY_TICK: Millis = 4_000;

pub struct World {
    pub at: Millis,
    offset: i64,
    pub oracle: Oracle,
    services: Services,
    texts: Vec<String>,
    vms: Vec<Vm>,
    next_vm: VmId,
    next_stream: u32,
    data: SharedData,
    jobs: BinaryHeap<Reverse<(Millis, u64, Job)>>,
    next_job: u64,
    deliveries: Vec<Delivery>,
    faults: Vec<(Service, FaultKind, bool, Millis)>,
    turns: Turns,
    idle_tick: Millis,
    pub counts: Counts,
    pub trace: Option<Vec<String>>,
}

struct Vm {
    id: VmId,
    worker: Worker,
    known: Known,
    parked: BTreeMap<u32, Held>,
    calls: Vec<Call>,
    next_tick: Millis,
    last_tick: Millis,
    stalled: Millis,
    /// When it first wanted a call that it could not make yet, and what the clock said.
    wants: Option<(Millis, Millis)>,
}

/// A request that waits.
struct Held {
    request: Request,
    came: Millis,
    /// What the clock said, and what the worker knew.
    clock: Millis,
    known: Known,
    set_back: Millis,
    worst_gap: Millis,
}

/// A call that a worker made.
struct Call {
    id: CallId,
    service: Service,
    path: String,
    asked: Millis,
    /// By the clock: when it may be over, and when it must be.
    ends: (Millis, Millis),
    attempts: usize,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// By a failure, after which it may be made once more.
    Failed,
    Answered,
    /// It was given up.
    Over,
}

/// Whether calls to a service are bounded by the config's limit.
fn takes_room(service: Service) -> bool {
    matches!(service, Service::Users | Service::Blacklist | Service::Records)
}

fn is_open(call: &Call) -> bool {
    matches!(call.state, State::Open | State::Failed)
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Job {
    Tick {
        slot: usize,
    },
    /// The root makes the calls that streams want.
    Calls {
        slot: usize,
        vm: VmId,
    },
    /// Another worker has posted something.
    Wake {
        slot: usize,
        vm: VmId,
    },
    Answer {
        slot: usize,
        vm: VmId,
        delivery: usize,
    },
}

/// What Envoy will hand over.
#[derive(Clone)]
struct Delivery {
    id: CallId,
    kind: Option<FaultKind>,
    /// The answer as of the dispatch; else it is made when it is handed over.
    early: Option<Truth>,
    sent: Sent,
}

type Outcome<T = ()> = Result<T, Violation>;

/// Envoy's shared data: compare-and-swap is checked on slots that exist, and nothing is ever deleted.
#[derive(Default, Clone)]
struct SharedData(Rc<RefCell<Slots>>);

#[derive(Default)]
struct Slots {
    slots: HashMap<String, (Vec<u8>, u32)>,
    contended: usize,
}

impl Board for SharedData {
    fn read(&self, slot: &str) -> Option<(Vec<u8>, u32)> {
        self.0.borrow().slots.get(slot).cloned()
    }

    fn write(&self, slot: &str, bytes: &[u8], version: Option<u32>) -> bool {
        let mut slots = self.0.borrow_mut();
        if version.is_some() && slots.contended > 0 {
            slots.contended -= 1;
            return false;
        }
        let held = slots.slots.get(slot).map(|(_, version)| *version);
        if let (Some(held), Some(version)) = (held, version)
            && held != version
        {
            return false;
        }
        slots.slots.insert(slot.to_owned(), (bytes.to_vec(), held.unwrap_or(0) + 1));
        true
    }
}

impl World {
    pub fn new(scenario: Scenario, schedule: Schedule, traced: bool) -> Self {
        let texts =
            schedule.tokens.iter().enumerate().map(|(number, plan)| services::sign(plan, number));
        let texts = texts.collect();
        let tagged = scenario.feed.as_ref().is_some_and(|feed| feed.tagged);
        let workers = scenario.workers;
        let mut world = Self {
            at: 0,
            offset: 0,
            oracle: Oracle::new(scenario, schedule),
            services: Services::new(tagged),
            texts,
            vms: Vec::new(),
            next_vm: 0,
            next_stream: 0,
            data: SharedData::default(),
            jobs: BinaryHeap::new(),
            next_job: 0,
            deliveries: Vec::new(),
            faults: Vec::new(),
            turns: Turns::default(),
            idle_tick: IDLE_TICK,
            counts: Counts::default(),
            trace: traced.then(Vec::new),
        };
        for slot in 0..workers {
            let vm = world.start_vm();
            world.vms.push(vm);
            world.tick_at(slot, 1);
        }
        world
    }

    /// Lets everything of the schedule happen, then all faults end, and everything must work.
    pub fn run(&mut self) -> Outcome {
        let events = std::mem::take(&mut self.oracle.schedule.events);
        for event in &events {
            self.until(event.at)?;
            self.happens(event)?;
        }
        let end = self.oracle.schedule.end.max(self.at);
        self.until(end)?;
        self.heal()?;
        self.oracle.schedule.events = events;
        Ok(())
    }

    fn clock(&self) -> Millis {
        (START + self.at).checked_add_signed(self.offset).unwrap()
    }

    fn now(&self) -> UnixTime {
        UnixTime::from_millis(self.clock())
    }

    pub fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let at = Duration::from_millis(self.at).as_secs_f64();
            trace.push(format!("{at:>9.3} s  {}", line()));
        }
    }

    /// A number that depends on nothing but the seed, the time and `what`: not on what else happened.
    fn chance(&self, what: impl Hash) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.oracle.scenario.seed, self.at, what).hash(&mut hasher);
        hasher.finish()
    }

    fn start_vm(&mut self) -> Vm {
        let id = self.next_vm;
        self.next_vm += 1;
        let text = self.oracle.scenario.config().to_string();
        let config = Config::parse(text.as_bytes(), &|_| None)
            .unwrap_or_else(|error| panic!("{error}: {text}"));
        let me = u64::try_from(id).unwrap() + 1;
        let exchange = self.oracle.scenario.sharing.then(|| {
            let key = Secret::new(SHARING_KEY.to_owned());
            let exchange = Exchange::new(Box::new(self.data.clone()), &key, me);
            lay_tables(&exchange, &config);
            exchange
        });
        let seed = self.oracle.scenario.seed.wrapping_mul(31).wrapping_add(me);
        Vm {
            id,
            worker: Worker::new(config, Crypto::Module, exchange, seed),
            known: Known::default(),
            parked: BTreeMap::new(),
            calls: Vec::new(),
            next_tick: 0,
            last_tick: self.at,
            stalled: 0,
            wants: None,
        }
    }

    fn later(&mut self, at: Millis, job: Job) {
        self.next_job += 1;
        self.jobs.push(Reverse((at.max(self.at), self.next_job, job)));
    }

    fn tick_at(&mut self, slot: usize, at: Millis) {
        self.vms[slot].next_tick = at;
        self.later(at, Job::Tick { slot });
    }

    /// Lets time pass.
    fn until(&mut self, at: Millis) -> Outcome {
        while let Some(Reverse((due, _, job))) = self.jobs.peek().cloned() {
            if due > at {
                break;
            }
            self.jobs.pop();
            self.at = self.at.max(due);
            self.run_job(job)?;
        }
        self.at = self.at.max(at);
        Ok(())
    }

    fn run_job(&mut self, job: Job) -> Outcome {
        let (slot, vm) = match job {
            Job::Tick { slot } => (slot, None),
            Job::Calls { slot, vm } | Job::Wake { slot, vm } | Job::Answer { slot, vm, .. } => {
                (slot, Some(vm))
            }
        };
        // A VM that is gone gets nothing any more.
        if vm.is_some_and(|vm| vm != self.vms[slot].id) {
            return Ok(());
        }
        let stalled = self.vms[slot].stalled;
        if stalled > self.at {
            if matches!(job, Job::Tick { .. }) {
                self.vms[slot].next_tick = stalled;
            }
            self.later(stalled, job);
            return Ok(());
        }
        match job {
            Job::Tick { slot } if self.vms[slot].next_tick == self.at => self.tick(slot),
            Job::Tick { .. } => Ok(()),
            Job::Calls { slot, .. } => self.carry_out(slot, Vec::new()),
            Job::Wake { slot, .. } => {
                let now = self.now();
                self.oracle.looked(&mut self.vms[slot].known);
                let released = self.vms[slot].worker.on_wake(now);
                self.carry_out(slot, released)
            }
            Job::Answer { slot, delivery, .. } => self.deliver(slot, delivery),
        }
    }

    fn tick(&mut self, slot: usize) -> Outcome {
        let (now, clock, at) = (self.now(), self.clock(), self.at);
        self.oracle.bring_along(self.vms[slot].id, at, clock);
        let vm = &mut self.vms[slot];
        let gap = at - vm.last_tick;
        vm.last_tick = at;
        for held in vm.parked.values_mut() {
            held.worst_gap = held.worst_gap.max(gap);
        }
        self.oracle.looked(&mut vm.known);
        let released = vm.worker.on_tick(now);
        let mut given_up = Vec::new();
        for call in vm.calls.iter_mut().filter(|call| is_open(call)) {
            let goes_on = vm.worker.purpose(call.id).is_some();
            let must_end = call.ends.1 <= clock;
            Violation::unless(!(must_end && goes_on), "a call ends", || {
                format!("the call for {} goes on after its end", call.path)
            })?;
            if must_end || (call.ends.0 <= clock && !goes_on) {
                call.state = State::Over;
                given_up.push((call.id, call.service));
            }
        }
        for (call, service) in given_up {
            self.oracle.failed(service, at);
            self.end_turn(slot, call);
        }
        self.carry_out(slot, released)?;
        let vm = &self.vms[slot];
        let limit = self.oracle.scenario.longest_wait();
        for held in vm.parked.values() {
            let ticks = self.oracle.scenario.stages() * held.worst_gap.max(TICK);
            let most = limit + ticks + (self.oracle.set_back - held.set_back);
            Violation::unless(at - held.came <= most, "a request ends", || {
                format!("it came {} ms ago, and may wait for {most} ms", at - held.came)
            })?;
        }
        let next = if self.is_busy(slot) { TICK } else { self.idle_tick };
        self.tick_at(slot, at + next);
        Ok(())
    }

    fn is_busy(&self, slot: usize) -> bool {
        let vm = &self.vms[slot];
        !vm.parked.is_empty() || vm.calls.iter().any(is_open)
    }

    /// What the shell's root does: it sees to the released, makes calls, and wakes the others.
    fn carry_out(&mut self, slot: usize, released: Vec<Released>) -> Outcome {
        let mut released = released;
        let wanted = self.vms[slot].wants.take();
        loop {
            for (stream, disposition) in released.drain(..) {
                let held = self.vms[slot].parked.remove(&stream.0);
                let Some(held) = held else {
                    return Violation::found("a request ends once", format!("{stream:?} again"));
                };
                self.ends(slot, &held.request, Some(&held), &disposition)?;
            }
            let Some(call) = self.vms[slot].worker.next_call() else {
                break;
            };
            released = self.dispatch(slot, &call, wanted)?;
        }
        if self.vms[slot].worker.take_wake_others() {
            self.wake_others(slot);
        }
        self.read_log(slot)?;
        self.check_held(slot)?;
        if self.is_busy(slot) && self.vms[slot].next_tick > self.at + TICK {
            self.tick_at(slot, self.at + TICK);
        }
        Ok(())
    }

    fn wake_others(&mut self, slot: usize) {
        for other in (0..self.vms.len()).filter(|other| *other != slot) {
            let chance = self.chance(("wake", other));
            let delay = if chance.is_multiple_of(16) { chance % 400 } else { chance % 3 };
            let vm = self.vms[other].id;
            self.later(self.at + delay, Job::Wake { slot: other, vm });
        }
    }

    /// No line names a token or the sharing key.
    fn read_log(&mut self, slot: usize) -> Outcome {
        for (_, line) in self.vms[slot].worker.take_log() {
            let tells = line.contains("eyJ") || line.contains(SHARING_KEY);
            Violation::unless(!tells, "secrets stay out of sight", || line.clone())?;
            self.note(|| format!("worker {slot} logs: {line}"));
        }
        Ok(())
    }

    /// Who waits by the model waits by the core, and there are not too many.
    fn check_held(&self, slot: usize) -> Outcome {
        let vm = &self.vms[slot];
        let waits = |stream: &u32| vm.worker.is_waiting(StreamId(*stream));
        Violation::unless(vm.parked.keys().all(waits), "a request ends", || {
            "one is neither held nor released".to_owned()
        })?;
        let limit = self.oracle.scenario.max_waiters;
        Violation::unless(vm.parked.len() <= limit, "waiters are bounded", || {
            format!("{} wait, of {limit}", vm.parked.len())
        })
    }

    fn dispatch(
        &mut self,
        slot: usize,
        dispatch: &Dispatch,
        wanted: Option<(Millis, Millis)>,
    ) -> Outcome<Vec<Released>> {
        let request = &dispatch.request;
        let header = |name: &str| {
            let found = request.headers.iter().find(|(own, _)| own == name);
            found.map(|(_, value)| value.clone())
        };
        let service = Service::ALL.into_iter().find(|s| s.cluster() == request.cluster).unwrap();
        let path = header(":path").unwrap();
        let timeout = Millis::try_from(request.timeout.as_millis()).unwrap();
        self.note_call(slot, dispatch, service, &path, timeout, wanted)?;
        self.counts.add("calls", service.cluster());
        let kind = self.fault(service, &path);
        if let Some(kind) = kind {
            self.counts.add("faults", kind.name());
            self.oracle.failed(service, self.at);
        }
        self.note(|| {
            let fate = kind.map_or("", FaultKind::name);
            format!("worker {slot} calls {}{path} ({timeout} ms) {fate}", service.cluster())
        });
        let vm = self.vms[slot].id;
        let refusal = match kind {
            Some(FaultKind::NotSent) => Some(Failure::NotSent),
            Some(FaultKind::UnknownCluster) => Some(Failure::UnknownCluster),
            _ => None,
        };
        if let Some(failure) = refusal {
            let answer = Answer::Failed(failure);
            self.call_mut(slot, dispatch.id).state = State::Failed;
            self.end_turn(slot, dispatch.id);
            let now = self.now();
            return Ok(self.vms[slot].worker.on_answer(dispatch.id, &answer, now));
        }
        if kind == Some(FaultKind::Lost) {
            return Ok(Vec::new());
        }
        let chance = self.chance(("latency", service, &path));
        let quick = 1 + chance % (timeout / 3).clamp(1, 60);
        let delay = match kind {
            Some(FaultKind::TimedOut) => timeout,
            Some(FaultKind::Late) => timeout + grace() + TICK + chance % 2_000,
            // Now and then it takes nearly as long as it may.
            None if chance.is_multiple_of(8) => (timeout * 9 / 10).max(1),
            _ => quick,
        };
        let sent = Sent { path, known: header("if-none-match"), body: request.body.clone() };
        let early = kind == Some(FaultKind::Late) || chance & 1 == 0;
        let early = early.then(|| self.services.answer(service, &sent, self.at));
        self.deliveries.push(Delivery { id: dispatch.id, kind, early, sent });
        let delivery = self.deliveries.len() - 1;
        self.later(self.at + delay, Job::Answer { slot, vm, delivery });
        Ok(Vec::new())
    }

    fn call_mut(&mut self, slot: usize, id: CallId) -> &mut Call {
        self.vms[slot].calls.iter_mut().find(|call| call.id == id).unwrap()
    }

    /// Notes a call, and whether it may be made.
    fn note_call(
        &mut self,
        slot: usize,
        dispatch: &Dispatch,
        service: Service,
        path: &str,
        timeout: Millis,
        wanted: Option<(Millis, Millis)>,
    ) -> Outcome {
        let clock = self.clock();
        let vm = &mut self.vms[slot];
        if let Some(call) = vm.calls.iter_mut().find(|call| call.id == dispatch.id) {
            call.attempts += 1;
            let may = call.attempts == 2 && call.state == State::Failed;
            call.state = State::Open;
            self.counts.add("calls", "tried again");
            return Violation::unless(may, "calls are not multiplied", || {
                format!("{path} was tried again unasked")
            });
        }
        let sharing = self.oracle.scenario.sharing;
        let open = |call: &&Call| call.state == State::Open && call.service == service;
        // A call for a document may be overtaken by another worker's.
        let doubled = vm.calls.iter().filter(open).any(|call| match service {
            Service::Users | Service::Blacklist | Service::Records => call.path == path,
            Service::Issuer | Service::Feed => !sharing,
        });
        Violation::unless(!doubled, "calls are not multiplied", || {
            format!("two calls for {path} from worker {slot}")
        })?;
        let counts = |call: &&Call| call.state == State::Open && takes_room(call.service);
        let all = vm.calls.iter().filter(counts).count() + 1;
        let limit = self.oracle.scenario.max_calls;
        let within = !takes_room(service) || all <= limit;
        Violation::unless(within, "calls are bounded", || format!("{all} calls, of {limit}"))?;
        self.check_pace(slot, service, path, clock)?;
        // The worker wanted it when a stream did, which is now at the latest.
        let (wanted_at, wanted) = wanted.unwrap_or((self.at, clock));
        let lasts = timeout + grace();
        let vm = &mut self.vms[slot];
        vm.calls.push(Call {
            id: dispatch.id,
            service,
            path: path.to_owned(),
            // One that began before the clock was set back is taken to have begun by the new one.
            asked: if wanted > clock + NUDGE { clock } else { clock.max(wanted) },
            ends: (clock.min(wanted) + lasts, clock.max(wanted) + lasts),
            attempts: 1,
            state: State::Open,
        });
        let asker = Asker {
            vm: vm.id,
            call: dispatch.id,
            wanted: (wanted_at, wanted),
            lasts,
            unsent: self.vms.iter().any(|vm| vm.worker.has_calls()),
        };
        self.turns.take(&self.oracle.scenario, service, path, &asker, (self.at, clock))
    }

    /// Tokens with strange keys do not make a worker fetch more often than it may.
    fn check_pace(&self, slot: usize, service: Service, path: &str, clock: Millis) -> Outcome {
        let keys = &self.oracle.scenario.keys;
        let vm = self.vms[slot].id;
        let last = self.oracle.keys.iter().rev().find(|fact| fact.vm == vm);
        if let Some(last) = last
            && service == Service::Issuer
            && !keys.discovery
            && !self.oracle.scenario.sharing
            && self.turns.is_calm_since(last.at)
        {
            let pause = keys.cooldown.min(keys.cache * 9 / 10);
            let since = clock.saturating_sub(last.clock);
            return Violation::unless(since >= pause, "keys are fetched at their pace", || {
                format!("{path} again after {since} ms")
            });
        }
        Ok(())
    }

    fn end_turn(&mut self, slot: usize, call: CallId) {
        let vm = &self.vms[slot];
        let ended = vm.calls.iter().find(|own| own.id == call).unwrap();
        self.turns.end(vm.id, call, ended.service, &ended.path, self.at);
    }

    fn fault(&mut self, service: Service, path: &str) -> Option<FaultKind> {
        let at = self.at;
        self.faults.retain(|(_, _, _, until)| *until > at);
        let coin = self.chance(("fault", path)).is_multiple_of(2);
        let hit = |(of, _, always, _): &&(Service, FaultKind, bool, Millis)| {
            *of == service && (*always || coin)
        };
        self.faults.iter().find(hit).map(|(_, kind, _, _)| *kind)
    }

    fn deliver(&mut self, slot: usize, delivery: usize) -> Outcome {
        let Delivery { id, kind, early, sent } = self.deliveries[delivery].clone();
        let (at, clock, now) = (self.at, self.clock(), self.now());
        let (service, path, asked, state) = {
            let call = self.call_mut(slot, id);
            (call.service, call.path.clone(), call.asked, call.state)
        };
        let truth = early.unwrap_or_else(|| self.services.answer(service, &sent, at));
        let goes_on = self.vms[slot].worker.purpose(id).is_some();
        let counts = kind.is_none_or(|kind| kind == FaultKind::Late);
        let in_time = state == State::Open && goes_on;
        if !in_time {
            self.counts.add("answers", "too late");
        }
        let answer = spoiled(kind, &truth, self.chance(("answer", &path)));
        self.note(|| {
            let said =
                kind.map_or_else(|| format!("{:?}", truth.said), |kind| kind.name().to_owned());
            let late = if in_time { "" } else { ", too late" };
            format!("worker {slot} is answered {path}: {said}{late}")
        });
        self.end_turn(slot, id);
        if in_time {
            if counts {
                let vm = &mut self.vms[slot];
                let moment = (vm.id, asked, clock, at);
                self.oracle.told(truth.said, &mut vm.known, moment);
            } else {
                self.oracle.failed(service, at);
            }
            let failed = answer.is_outage();
            self.call_mut(slot, id).state = if failed { State::Failed } else { State::Answered };
        }
        let released = self.vms[slot].worker.on_answer(id, &answer, now);
        self.carry_out(slot, released)
    }

    fn happens(&mut self, event: &Event) -> Outcome {
        self.counts.add("events", event.what.kind());
        match &event.what {
            What::Request { worker, path, shown, forged } => {
                self.request(*worker, *path, *shown, *forged)
            }
            What::HangUp { worker, nth } => {
                let vm = &mut self.vms[*worker];
                let waiting = vm.parked.len();
                if let Some(stream) = vm.parked.keys().nth(nth % waiting.max(1)).copied() {
                    vm.parked.remove(&stream);
                    vm.worker.on_gone(StreamId(stream));
                    let waits = vm.worker.is_waiting(StreamId(stream));
                    self.note(|| format!("request {stream} at worker {worker} hangs up"));
                    self.counts.add("requests", "hung up");
                    return Violation::unless(!waits, "a request ends", || {
                        "one waits that is gone".to_owned()
                    });
                }
                Ok(())
            }
            What::Fault { service, kind, lasts, always } => {
                self.note(|| {
                    format!("{} fails for {lasts} ms: {}", service.cluster(), kind.name())
                });
                self.faults.push((*service, *kind, *always, self.at + lasts));
                Ok(())
            }
            What::Restart { worker } => {
                self.note(|| format!("worker {worker} restarts"));
                let lost = self.vms[*worker].parked.len();
                self.counts.add_many("requests", "gone with their VM", lost);
                let vm = self.start_vm();
                self.vms[*worker] = vm;
                self.tick_at(*worker, self.at + 1);
                Ok(())
            }
            What::Step { millis } => {
                self.note(|| format!("the clock steps by {millis} ms"));
                self.offset += millis;
                if *millis < 0 {
                    self.is_set_back(millis.unsigned_abs());
                }
                self.turns.disturb(self.at);
                self.all_in_trouble();
                Ok(())
            }
            What::Stall { worker, lasts } => {
                self.note(|| format!("worker {worker} stalls for {lasts} ms"));
                self.vms[*worker].stalled = self.at + lasts;
                self.all_in_trouble();
                Ok(())
            }
            What::Contend { writes } => {
                self.data.0.borrow_mut().contended = *writes;
                Ok(())
            }
            What::Scribble => {
                self.note(|| "all of shared data is overwritten".to_owned());
                for (slot, _) in self.data.0.borrow_mut().slots.values_mut() {
                    *slot = b"another plugin's".to_vec();
                }
                self.oracle.overwritten();
                self.turns.disturb(self.at);
                Ok(())
            }
            What::Publish { .. }
            | What::Withdraw { .. }
            | What::Change { .. }
            | What::Revoke { .. }
            | What::ClearFeed
            | What::List { .. }
            | What::Tamper { .. } => {
                self.note(|| format!("{:?}", event.what));
                self.truth_changes(&event.what);
                Ok(())
            }
        }
    }

    fn truth_changes(&mut self, what: &What) {
        match what {
            What::Publish { key } => self.services.publish(*key),
            What::Withdraw { key } => self.services.withdraw(*key),
            What::Change { user, to } => self.services.change(*user, *to),
            What::Revoke { what, ends } => {
                let clock = self.clock();
                self.services.revoke(*what, *ends, clock);
            }
            What::ClearFeed => self.services.clear_feed(),
            What::List { what, lasts } => {
                self.services.blacklist(*what, self.at + 1_000 * lasts);
            }
            What::Tamper { user, with } => {
                let done = self.services.tamper(*user, *with);
                self.counts.add("Redis", if done { "written over" } else { "empty" });
            }
            _ => {}
        }
    }

    fn is_set_back(&mut self, back: Millis) {
        self.oracle.set_back += back;
        let clock = self.clock();
        // No call ends later for it.
        for call in self.vms.iter_mut().flat_map(|vm| &mut vm.calls) {
            call.ends.0 = call.ends.0.saturating_sub(back);
            if back > NUDGE {
                call.asked = call.asked.min(clock);
            }
        }
    }

    /// What takes long for the workers looks to them like a service that does.
    fn all_in_trouble(&mut self) {
        for service in Service::ALL {
            self.oracle.failed(service, self.at);
        }
    }

    /// A request comes to a worker. Its stream, if it is held.
    fn request(&mut self, slot: usize, path: Path, shown: Shown, forged: u32) -> Outcome {
        let stalled = self.vms[slot].stalled;
        self.until(stalled)?;
        self.next_stream += 1;
        let stream = self.next_stream;
        let sent = invariants::head(path, shown, forged, &self.texts);
        let fields = sent
            .iter()
            .map(|(name, value)| Field { name: name.clone(), value: value.clone().into_bytes() });
        let now = self.now();
        let vm = &mut self.vms[slot];
        let config = vm.worker.config();
        let (strip, head) = Stripped::strip(fields.collect(), &config.context.managed);
        let disposition = vm.worker.on_request(StreamId(stream), &head, &Hop::default(), now);
        let request = Request { stream, path, shown, sent, strip };
        self.counts.add("requests", "made");
        self.note(|| format!("request {stream} to worker {slot}: {} {shown:?}", path.text()));
        let clock = self.clock();
        if self.vms[slot].worker.has_calls() {
            self.vms[slot].wants.get_or_insert((self.at, clock));
            let chance = self.chance("root");
            let delay = if chance.is_multiple_of(16) { 20 } else { chance & 1 };
            let vm = self.vms[slot].id;
            self.later(self.at + delay, Job::Calls { slot, vm });
        }
        if disposition == Disposition::Pause {
            let set_back = self.oracle.set_back;
            let vm = &mut self.vms[slot];
            let known = vm.known.clone();
            let parked = Held { request, came: self.at, clock, known, set_back, worst_gap: 0 };
            vm.parked.insert(stream, parked);
            self.counts.add("requests", "held");
            if self.vms[slot].next_tick > self.at + TICK {
                self.tick_at(slot, self.at + TICK);
            }
        } else {
            self.ends(slot, &request, None, &disposition)?;
        }
        self.check_held(slot)
    }

    /// A request has come to its end: was that right?
    fn ends(
        &mut self,
        slot: usize,
        request: &Request,
        held: Option<&Held>,
        disposition: &Disposition,
    ) -> Outcome {
        let verdict = match disposition {
            Disposition::Deny(denial) => denial.code.name(),
            Disposition::Forward(..) => "forwarded",
            _ => "neither",
        };
        let stream = request.stream;
        self.note(|| format!("request {stream} at worker {slot}: {verdict}"));
        self.counts.add("outcomes", verdict);
        let vm = &self.vms[slot];
        let load = invariants::Load {
            parked: vm.parked.len(),
            calls: vm.calls.iter().filter(|call| is_open(call) && takes_room(call.service)).count(),
            wants_more: vm.worker.has_calls(),
        };
        let (at, clock) = (self.at, self.clock());
        let then = held.map_or((at, clock, &vm.known), |held| (held.came, held.clock, &held.known));
        let moment = Moment { vm: vm.id, known: &vm.known, at, clock, then };
        invariants::judge(&self.oracle, request, &self.texts, disposition, &moment, &load)
    }

    /// All faults end. After enough time, each worker serves what is good and refuses what is not.
    fn heal(&mut self) -> Outcome {
        self.note(|| "all faults end".to_owned());
        self.faults.clear();
        self.data.0.borrow_mut().contended = 0;
        self.services.publish(0);
        self.services.withdraw(3);
        let secs =
            i64::try_from(self.clock() / 1_000).unwrap() - i64::try_from(START / 1_000).unwrap();
        let mut token = |form, user, key, issued| {
            let plan = TokenPlan { form, user, key, issued, expires: secs + 100_000 };
            let number = self.oracle.schedule.tokens.len();
            self.texts.push(services::sign(&plan, number));
            self.oracle.schedule.tokens.push(plan);
            number
        };
        let good = token(Form::Genuine, 1, 0, secs);
        let admin = token(Form::Genuine, 0, 0, secs);
        let gone = token(Form::Genuine, 2, 0, secs);
        let removed = token(Form::Genuine, 1, 3, secs);
        let forged = token(Form::Forged, 1, 0, secs);
        let revoked = token(Form::Genuine, 1, 0, secs);
        let barred = token(Form::Genuine, 1, 0, secs);
        self.settle_truth(revoked, barred);
        // Of that nobody wants to read.
        let trace = self.trace.take();
        self.idle_tick = RECOVERY_TICK;
        let recovered = self.until(self.at + RECOVERY);
        self.idle_tick = IDLE_TICK;
        let recovered = recovered.and_then(|()| self.until(self.at + 2 * RECOVERY_TICK));
        self.trace = trace;
        recovered?;
        self.counts.add("worlds", "healed");
        let lookup = self.oracle.scenario.lookup.is_some();
        let feed = self.oracle.scenario.feed.is_some();
        let blacklist = self.oracle.scenario.blacklist.is_some();
        let cases = [
            (Path::Open, Shown::Nothing, "forwarded"),
            (Path::Maybe, Shown::Nothing, "forwarded"),
            (Path::User, Shown::One(good), "forwarded"),
            (Path::Maybe, Shown::One(good), "forwarded"),
            (Path::Raw, Shown::One(good), "forwarded"),
            (Path::Admin, Shown::One(admin), "forwarded"),
            (Path::Admin, Shown::One(good), "role_required"),
            (Path::User, Shown::One(gone), if lookup { "user_unknown" } else { "forwarded" }),
            (Path::User, Shown::One(removed), "key_unknown"),
            (Path::User, Shown::One(forged), "signature_invalid"),
            (Path::User, Shown::One(revoked), if feed { "token_revoked" } else { "forwarded" }),
            (Path::User, Shown::One(barred), if blacklist { "token_revoked" } else { "forwarded" }),
            (Path::User, Shown::Nothing, "token_missing"),
        ];
        for slot in 0..self.vms.len() {
            for (path, shown, wanted) in cases {
                self.expect(slot, path, shown, wanted)?;
            }
        }
        let waiting: usize = self.vms.iter().map(|vm| vm.parked.len()).sum();
        Violation::unless(waiting == 0, "it heals", || format!("{waiting} requests still wait"))
    }

    /// The state of the world that the last requests meet.
    fn settle_truth(&mut self, revoked: usize, barred: usize) {
        self.services.clear_blacklist();
        self.services.blacklist(Listed::Token(barred), Millis::MAX);
        self.services.clear_feed();
        let clock = self.clock();
        self.services.revoke(Revoked::Token(revoked), None, clock);
        for user in 0..3 {
            self.services.change(user, Change::Back);
            let admin = self.services.record(user).is_some_and(|record| record.admin);
            if admin != services::is_born_admin(user) {
                self.services.change(user, Change::Role);
            }
        }
        self.services.change(2, Change::Gone);
    }

    fn expect(&mut self, slot: usize, path: Path, shown: Shown, wanted: &'static str) -> Outcome {
        let before = self.counts.of("outcomes", wanted);
        self.request(slot, path, shown, u32::MAX)?;
        // With one call at once, what a stale record is asked for again by is in the way of the next.
        for _ in 0..100 {
            self.until(self.at + 25)?;
            if !self.is_busy(slot) {
                break;
            }
        }
        let served = self.counts.of("outcomes", wanted) > before;
        Violation::unless(served, "it heals", || {
            format!("{} {shown:?} at worker {slot} is not {wanted}", path.text())
        })
    }
}

/// The answer as the fault has it arrive.
fn spoiled(kind: Option<FaultKind>, truth: &Truth, chance: u64) -> Answer {
    let response = |status, body: Vec<u8>| Answer::Response {
        status,
        max_age: None,
        etag: truth.etag.clone(),
        body,
    };
    match kind {
        None | Some(FaultKind::Late | FaultKind::Lost) => {
            response(truth.status, truth.body.clone())
        }
        Some(FaultKind::TimedOut) if chance & 1 == 0 => response(504, Vec::new()),
        Some(FaultKind::TimedOut) => Answer::Failed(Failure::TimedOut),
        Some(FaultKind::Status(status)) => response(status, truth.body.clone()),
        Some(FaultKind::Garbage) => {
            let garbage: [&[u8]; 6] =
                [b"", b"[]", b"\"x\"", b"{\"keys\": []", b"\xff\xfe{}", b"<html>no</html>"];
            let pick = usize::try_from(chance % 6).unwrap();
            response(200, garbage[pick].to_vec())
        }
        Some(FaultKind::Partial) => response(200, truth.body[..truth.body.len() / 2].to_vec()),
        Some(FaultKind::TooLong) => Answer::Failed(Failure::TooLong),
        Some(FaultKind::Broken | FaultKind::NotSent | FaultKind::UnknownCluster) => {
            Answer::Failed(Failure::Broken)
        }
    }
}
