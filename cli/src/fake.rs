//! Sessions and an engine that do what a script says.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use tracer::plan::TargetMeta;
use tracer::semantics::Captures;
use tracer::span::ClockAnchor;

use crate::engine::{
    CoverageView, Engine, EngineError, ErrorKind, Feature, Options, Output, PollStatus, Session,
    Summary,
};

/// What one `poll` gives.
pub type Step = (Vec<Output>, Result<PollStatus, &'static str>);

/// A session that runs on after its last step.
pub struct Scripted {
    target: TargetMeta,
    steps: Vec<Step>,
    /// What `finish` gives.
    pub left: Vec<Output>,
    finished: Rc<RefCell<Vec<u32>>>,
}

/// A session that notes in `finished` that it was detached.
pub fn session(pid: u32, steps: Vec<Step>, finished: &Rc<RefCell<Vec<u32>>>) -> Box<Scripted> {
    let target = TargetMeta { pid, executable: "/bin/x".into(), build_id: None };
    Box::new(Scripted { target, steps, left: vec![], finished: Rc::clone(finished) })
}

impl Session for Scripted {
    fn target(&self) -> &TargetMeta {
        &self.target
    }

    fn anchor(&self) -> ClockAnchor {
        ClockAnchor { offset_ns: 0 }
    }

    fn coverage(&self) -> Option<&CoverageView> {
        None
    }

    fn poll(&mut self, out: &mut Vec<Output>) -> Result<PollStatus, EngineError> {
        if self.steps.is_empty() {
            return Ok(PollStatus::Running);
        }
        let (outputs, status) = self.steps.remove(0);
        out.extend(outputs);
        status.map_err(failed)
    }

    fn finish(self: Box<Self>, out: &mut Vec<Output>) -> Summary {
        self.finished.borrow_mut().push(self.target.pid);
        out.extend(self.left);
        Summary { spans: 6, ..Summary::default() }
    }
}

fn failed(message: &str) -> EngineError {
    EngineError { kind: ErrorKind::Failed, message: message.to_owned() }
}

/// An engine for `run`: looks at the child before it executes anything.
#[derive(Default)]
pub struct FakeEngine {
    /// Attaching fails.
    pub refuses: bool,
    /// Process ids attached to before their exec.
    pub attached: RefCell<Vec<u32>>,
    /// Process ids detached from.
    pub finished: Rc<RefCell<Vec<u32>>>,
}

impl Engine for FakeEngine {
    fn attach(&self, pid: u32, _: &Options) -> Result<Box<dyn Session>, EngineError> {
        Ok(session(pid, vec![], &self.finished))
    }

    fn attach_before_exec(
        &self,
        pid: u32,
        program: &Path,
        _: &Options,
    ) -> Result<Box<dyn Session>, EngineError> {
        assert!(program.is_absolute());
        let own = std::fs::read_link("/proc/self/exe").unwrap();
        let executes = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap();
        assert_eq!(executes, own, "the child has not executed its program yet");
        if self.refuses {
            return Err(failed("not today"));
        }
        self.attached.borrow_mut().push(pid);
        Ok(session(pid, vec![], &self.finished))
    }

    fn inspect_process(&self, _: u32, _: &Options) -> Result<CoverageView, EngineError> {
        Err(failed("not scripted"))
    }

    fn inspect_file(&self, _: &Path, _: &Options) -> Result<CoverageView, EngineError> {
        Err(failed("not scripted"))
    }

    fn replay(&self, _: &Path, _: Captures) -> Result<Box<dyn Session>, EngineError> {
        Err(failed("not scripted"))
    }

    fn features(&self) -> Vec<Feature> {
        vec![]
    }
}
