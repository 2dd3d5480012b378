"""A composite tool as its owner defined it, read and checked: templates are compiled, durations are seconds.

What stands in a template's place is an `Expression`: text that is a template is rendered, anything else stays as it is.
"""

from collections.abc import Mapping

import msgspec

from fastproxy.vmcp.composite import template

TOOL, ELICITATION, FOR_EACH = "tool", "elicitation", "forEach"
ABORT, CONTINUE, RETRY, SKIP_REMAINING = "abort", "continue", "retry", "skip_remaining"

WORKFLOW_SECONDS = 1800.0
STEP_SECONDS = 300.0
ELICITATION_SECONDS_MAX = 600.0
RETRY_DELAY_SECONDS = 1.0
STEPS_MAX = 100
MAX_PARALLEL, MAX_PARALLEL_CAP = 10, 50
MAX_ITERATIONS, MAX_ITERATIONS_CAP = 100, 1000

# Values with templates in them: objects and lists of the same, down to texts.
Expression = object


class OnError(msgspec.Struct, frozen=True):
    """What a step's failure means. `retry_count`: attempts after the first; they come before `action` is asked."""

    action: str = ABORT
    retry_count: int = 0
    retry_delay_seconds: float = RETRY_DELAY_SECONDS


class Call(msgspec.Struct, frozen=True):
    """A tool to call: `tool` by the name that clients see, or `backend.its own name`."""

    tool: str
    arguments: Mapping[str, Expression]


class Question(msgspec.Struct, frozen=True):
    """What the user is asked. `on_decline`, `on_cancel`: abort, continue or skip_remaining; None: a failure."""

    message: template.Template
    schema: Mapping[str, object]
    on_decline: str | None = None
    on_cancel: str | None = None


class Loop(msgspec.Struct, frozen=True):
    """One inner step for each element of a JSON array."""

    collection: template.Template
    item_name: str
    parallel_max: int
    iterations_max: int
    step: "Step"


class Step(msgspec.Struct, frozen=True):
    """`timeout_seconds` covers the attempts and the pauses between them. `default_results`: its output when it was
    skipped, or has failed and the workflow goes on."""

    id: str
    action: Call | Question | Loop
    condition: template.Template | None = None
    depends_on: tuple[str, ...] = ()
    on_error: OnError = OnError()
    timeout_seconds: float = STEP_SECONDS
    default_results: Mapping[str, object] = {}

    @property
    def may_be_skipped(self) -> bool:
        """Whether others may find its default results in place of its output."""
        return self.condition is not None or self.on_error.action == CONTINUE


class Property(msgspec.Struct, frozen=True):
    """One value of the output: from a template, or an object of further ones."""

    type: str
    description: str
    value: template.Template | None = None
    properties: Mapping[str, "Property"] | None = None
    default: object = msgspec.UNSET


class Output(msgspec.Struct, frozen=True):
    """What the tool's result is made of."""

    properties: Mapping[str, Property]
    required: tuple[str, ...] = ()


class Annotations(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Hints for clients (MCP 2025-11-25, ToolAnnotations)."""

    title: str | None = None
    read_only_hint: bool | None = None
    destructive_hint: bool | None = None
    idempotent_hint: bool | None = None
    open_world_hint: bool | None = None


class Definition(msgspec.Struct, frozen=True):
    """One composite tool. `parameters`: the JSON Schema of its arguments."""

    name: str
    description: str
    steps: tuple[Step, ...]
    parameters: Mapping[str, object] = msgspec.field(default_factory=lambda: {"type": "object"})
    timeout_seconds: float = WORKFLOW_SECONDS
    output: Output | None = None
    annotations: Annotations = Annotations()

    def calls(self) -> tuple[Call, ...]:
        """Every tool that it may call, those within loops included."""
        actions = [step.action.step.action if isinstance(step.action, Loop) else step.action for step in self.steps]
        return tuple(action for action in actions if isinstance(action, Call))
