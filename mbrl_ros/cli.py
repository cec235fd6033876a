# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The `mbrl` command."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mbrl_ros import bringup, launcher
from mbrl_ros.errors import reason, told

if TYPE_CHECKING:
    from mbrl_ros.dynamics.dataset import Trajectory

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Robots that learn their own dynamics and plan through what they have learned.",
)

_BAD_USAGE = 2
_DEMO_SECONDS = 60.0

ArgumentList = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME:=VALUE]...", help="Launch arguments.")
]


def _fail(message: str, status: int = _BAD_USAGE) -> typer.Exit:
    print(f"mbrl: {message}", file=sys.stderr, flush=True)
    return typer.Exit(status)


@app.command()
def launch(
    launch_file: Annotated[str, typer.Argument(help="Launch file, such as mpc.launch.py.")],
    arguments: ArgumentList = None,
    show_args: Annotated[
        bool, typer.Option("--show-args", "-s", help="List the launch arguments and end.")
    ] = False,
) -> None:
    """Start the nodes of a launch file and stay until they end."""
    if launch_file not in launcher.launch_files():
        known = ", ".join(launcher.launch_files())
        raise _fail(f"unknown launch file '{launch_file}'; expected one of {known}")
    if show_args:
        for argument in bringup.ARGUMENTS:
            choices = f"  one of: {', '.join(argument.choices)}" if argument.choices else ""
            print(f"  {argument.name}:={argument.default}{choices}\n      {argument.description}")
        return
    try:
        status = launcher.launch(launch_file, bringup.parse_arguments(arguments or []))
    except bringup.ArgumentError as error:
        raise _fail(str(error)) from None
    raise typer.Exit(status)


@app.command()
def demo(arguments: ArgumentList = None) -> None:
    """Run the cart-pole from nothing to upright, and say whether it is up at the end.

    Alone it lasts a minute, moves the goal once and writes demo.png and demo.json; launch
    arguments replace any of that.
    """
    try:
        values = bringup.parse_arguments(arguments or [])
        if "duration" not in values:
            values["duration"] = str(_DEMO_SECONDS)
            values.setdefault("second_goal", "[0.6, 0.0]")
        values.setdefault("picture", "demo.png")
        report = Path(values.setdefault("report", "demo.json"))
        bringup.processes(values)  # refuses bad arguments before an old report is removed
        if float(values["duration"]) == 0.0:
            raise bringup.ArgumentError("a demo needs an end: duration:=60.0, for example")
        report.unlink(missing_ok=True)
        status = launcher.launch("mpc.launch.py", values)
    except bringup.ArgumentError as error:
        raise _fail(str(error)) from None
    summary = json.loads(report.read_text("utf-8")) if report.is_file() else None
    if status:
        raise _fail("the run did not end by itself; see above", status)
    if summary is None:
        raise _fail("the run left no report; see above", 1)
    if summary["interaction_s"] < float(values["duration"]) - 0.5:
        raise _fail(f"the run was cut short after {summary['interaction_s']} s", 1)
    if summary["at_goal_since_s"] is None:
        solved = summary["solved_at_s"]
        before = "it never was" if solved is None else f"it was from {solved} s on, then fell"
        raise _fail(f"the pole is not up at the end: {before}", 1)
    print(f"demo: the pole is up, since {summary['at_goal_since_s']} s")


@app.command()
def goal(
    values: Annotated[list[str], typer.Argument(metavar="NAME:=VALUE...", help="New values.")],
    namespace: Annotated[str, typer.Option(help="Namespace of the running stack.")] = "",
) -> None:
    """Change the goal of a running planner, such as: mbrl goal cart_position:=0.5."""
    from mbrl_ros.ros.client import CommandError, set_goal

    changes: dict[str, float] = {}
    for word in values:
        name, separator, text = word.partition(":=")
        try:
            changes[name] = float(text)
        except ValueError:
            separator = ""
        if not separator:
            raise _fail(f"'{word}' is not a goal; expected name:=number")
    try:
        print(f"goal: {set_goal(changes, namespace)}")
    except CommandError as error:
        raise _fail(str(error), 1) from None


@app.command()
def arm(
    namespace: Annotated[str, typer.Option(help="Namespace of the running stack.")] = "",
    timeout: Annotated[
        float,
        typer.Option(min=0.0, max=3600.0, help="Seconds to try again while refused; 0: once."),
    ] = 10.0,
) -> None:
    """Let commands through to the robot, as after a start on hardware."""
    from mbrl_ros.ros.client import CommandError
    from mbrl_ros.ros.client import arm as arm_guard

    try:
        print(arm_guard(timeout, namespace))
    except CommandError as error:
        raise _fail(str(error), 1) from None


@app.command()
def stop(
    namespace: Annotated[str, typer.Option(help="Namespace of the running stack.")] = "",
) -> None:
    """Go to the safe command and stay there until armed again."""
    _call("command_guard", "stop", namespace)


@app.command()
def save(
    namespace: Annotated[str, typer.Option(help="Namespace of the running stack.")] = "",
    policy: Annotated[bool, typer.Option("--policy", help="The policy, not the model.")] = False,
) -> None:
    """Save the model, or the policy, that is in use to a new file, and print its path."""
    _call("policy_learner" if policy else "dynamics_learner", "save", namespace)


def _call(node: str, service: str, namespace: str) -> None:
    from mbrl_ros.ros.client import CommandError, trigger

    try:
        print(trigger(node, service, namespace))
    except CommandError as error:
        raise _fail(str(error), 1) from None


@app.command()
def status(
    namespace: Annotated[str, typer.Option(help="Namespace of the running stack.")] = "",
    once: Annotated[bool, typer.Option("--once", help="Print one line and end.")] = False,
) -> None:
    """Show one live line: time, state, goal, cost, transitions, error, planning, misses."""
    from mbrl_ros.ros.client import CommandError, follow_status

    try:
        follow_status(namespace, once)
    except CommandError as error:
        raise _fail(str(error), 1) from None


param_app = typer.Typer(no_args_is_help=True, help="Read and set parameters, as ros2 param does.")
app.add_typer(param_app, name="param")

NodeArgument = Annotated[str, typer.Argument(metavar="NODE", help="Such as simulator.")]
ParameterArgument = Annotated[str, typer.Argument(metavar="NAME", help="Such as motor_gain.")]
StackOption = Annotated[str, typer.Option(help="Namespace of the running stack.")]


@param_app.command("get")
def param_get(node: NodeArgument, name: ParameterArgument, namespace: StackOption = "") -> None:
    """Show a parameter of a running node."""
    from mbrl_ros.ros.client import CommandError, get_parameter

    try:
        print(get_parameter(node, name, namespace))
    except CommandError as error:
        raise _fail(str(error), 1) from None


@param_app.command("set", context_settings={"ignore_unknown_options": True})
def param_set(
    node: NodeArgument,
    name: ParameterArgument,
    value: Annotated[str, typer.Argument(metavar="VALUE", help='Such as 0.5 or "[0.5, 0.0]".')],
    namespace: StackOption = "",
) -> None:
    """Set a parameter of a running node."""
    from mbrl_ros.ros.client import CommandError, set_parameter

    try:
        set_parameter(node, name, value, namespace)
    except CommandError as error:
        raise _fail(str(error), 1) from None
    print("Set parameter successful")


# -- robot files -----------------------------------------------------------------------------

robot_app = typer.Typer(no_args_is_help=True, help="Write and check the file of a robot.")
app.add_typer(robot_app, name="robot")


@robot_app.command("check")
def robot_check(
    robot: Annotated[
        str, typer.Argument(metavar="FILE", help="YAML file, or name of a shipped robot.")
    ],
    live: Annotated[
        bool,
        typer.Option("--live", help="Compare it with the robot that runs now; sends nothing."),
    ] = False,
    namespace: Annotated[str, typer.Option(help="With --live: of the robot's topics.")] = "",
    seconds: Annotated[
        float, typer.Option(min=0.5, max=600.0, help="With --live: how long to listen.")
    ] = 3.0,
) -> None:
    """Check a robot file and say in words what it says; status 2 if it cannot be used.

    With --live, status 1 if the robot that runs now is not what the file says.
    """
    from mbrl_ros.robots import RobotError, load_robot
    from mbrl_ros.robots.explain import UNKNOWN, UNKNOWN_LIVE, check_terms, explain, warnings

    try:
        spec = load_robot(robot)
        check_terms(spec)
    except RobotError as error:
        raise _fail(str(error)) from None
    print("\n".join(explain(spec)))
    for warning in warnings(spec):
        print(f"warning: {warning}")
    if not live:
        print(UNKNOWN)
        return
    from mbrl_ros.ros.live_check import compare

    print(f"listening for {seconds:g} s", file=sys.stderr, flush=True)
    seen = compare(spec, namespace, seconds)
    print("\n".join(["live", *seen.lines]))
    for problem in seen.problems:
        print(f"problem: {problem}")
    print(UNKNOWN_LIVE)
    if seen.problems:
        raise typer.Exit(1)


@robot_app.command("new")
def robot_new(
    urdf: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Take joints and limits from a URDF, not a live graph."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Default: NAME.yaml.")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Ask nothing: take what is likely.")
    ] = False,
    namespace: Annotated[str, typer.Option(help="Namespace of the robot's topics.")] = "",
    seconds: Annotated[
        float, typer.Option(min=0.5, max=600.0, help="How long to listen to the live graph.")
    ] = 3.0,
) -> None:
    """Write a commented robot file to start from, of a robot that runs now or of a URDF."""
    from mbrl_ros.robots import starter
    from mbrl_ros.robots.explain import warnings

    def ask(question: str, default: str) -> str:
        return default if yes else str(typer.prompt(question, default=default))

    try:
        if urdf is not None:
            found = starter.read_urdf(urdf)
        else:
            from mbrl_ros.ros.discovery import look

            print(f"listening for {seconds:g} s", file=sys.stderr, flush=True)
            found = look(namespace, seconds)
        name = starter.plain_name(output.stem if output else found.name)
        name = starter.plain_name(ask("name of the robot", name))
        path = output or Path(f"{name}.yaml")
        _check_folder(path, "-o")
        if path.suffix not in (".yaml", ".yml"):
            raise _fail(f"-o {path}: expected a name that ends with .yaml")
        if path.exists():
            raise _fail(f"{path}: exists already; choose another name with -o")
        text = starter.write(name, found, ask)
        spec = starter.check(text, path)
        with path.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except (OSError, starter.StarterError) as error:
        raise _fail(told(error)) from None
    print(f"wrote {path}; all that it says is a guess until you have read it")
    guess = starter.command_guess(found, spec.command.topic)
    if guess:
        print(f"warning: {guess}")
    for warning in warnings(spec):
        print(f"warning: {warning}")
    print(f"next: edit it, then mbrl robot check {path}")


# -- recorded data ---------------------------------------------------------------------------

BagOption = Annotated[
    list[Path] | None,
    typer.Option("--bag", help="rosbag2 recording of the robot's own topics; may be repeated."),
]
ExperienceOption = Annotated[
    Path | None, typer.Option("--experience", help="Directory that was given as experience:=.")
]
NamespaceOption = Annotated[
    str | None,
    typer.Option(help="Namespace of the recorded topics; without it, wherever they all are."),
]
HorizonOption = Annotated[
    float, typer.Option(min=0.0, help="Seconds ahead that the model is evaluated.")
]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of all random numbers.")]


@app.command()
def export(
    directory: Annotated[
        Path, typer.Argument(metavar="EXPERIENCE_DIR", help="As given to experience:=.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="BAG_DIR", help="Default: EXPERIENCE_DIR/bag."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing bag.")] = False,
) -> None:
    """Write stored experience as a rosbag2 recording (MCAP)."""
    from mbrl_ros.dynamics.experience import Experience
    from mbrl_ros.offline.export import export as write

    path = output or directory / "bag"
    try:
        count = write(Experience(directory, None), path, force, progress=True)
    except (OSError, ValueError) as error:
        raise _fail(told(error), 1) from None
    print(f"{path}: {count} messages")


@app.command()
def train(
    robot: Annotated[str, typer.Option(help="Name or YAML file of the robot.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="For model_file:=FILE.")
    ],
    model: Annotated[str, typer.Option(metavar="KIND", help="Kind of dynamics model.")] = "gp",
    bag: BagOption = None,
    experience: ExperienceOption = None,
    namespace: NamespaceOption = None,
    validation: Annotated[
        float, typer.Option(min=0.0, max=0.9, help="Share of the steps, the last, held out.")
    ] = 0.2,
    max_seconds: Annotated[
        float, typer.Option(min=0.0, help="After that, no further slice of training begins.")
    ] = 120.0,
    threads: Annotated[
        int, typer.Option(min=1, help="Threads of training; more than free cores slow it down.")
    ] = 1,
    horizon: HorizonOption = 2.0,
    seed: SeedOption = 0,
) -> None:
    """Train a model from recorded data, and evaluate it on the part that was held out."""
    import torch

    from mbrl_ros.dynamics.evaluation import evaluate, state_scale
    from mbrl_ros.offline import sources, training
    from mbrl_ros.offline.evaluation_report import show
    from mbrl_ros.robots import load_robot

    _check_folder(output, "-o")
    torch.set_num_threads(threads)
    try:
        spec = load_robot(robot)
        source = sources.load(spec, bag or [], experience, namespace)
        known, held_out = source.split(validation)
        trained = training.train(
            model, spec, known, held_out, output, max_seconds, seed, progress=True
        )
        print(f"{output}: {model}, {trained.transitions} transitions")
        if held_out.runs:
            pieces = held_out.trajectories(spec)
            steps = _horizon_steps(pieces, horizon, spec.period)
            # The last steps may be of a robot that has come to rest.
            scale = state_scale(source.trajectories(spec), trained.features)
            show(evaluate(trained, pieces, spec, horizon=steps, scale=scale, seed=seed))
    except (OSError, ValueError) as error:
        raise _fail(told(error), 1) from None


@app.command("eval")
def evaluate_model(
    model: Annotated[Path, typer.Option(metavar="FILE", help="Saved model.")],
    bag: BagOption = None,
    experience: ExperienceOption = None,
    robot: Annotated[
        str | None, typer.Option(help="Name or YAML file; needed if the robot is not shipped.")
    ] = None,
    namespace: NamespaceOption = None,
    horizon: HorizonOption = 2.0,
    propagation: Annotated[
        str | None,
        typer.Option(help="How particles carry uncertainty; default: tsinf or the next."),
    ] = None,
    particles: Annotated[int, typer.Option(help="Particles of each start.")] = 39,
    starts: Annotated[int, typer.Option(min=1, help="Starting points, at most.")] = 100,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all numbers there.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw error and coverage there (PNG, PDF).")
    ] = None,
    seed: SeedOption = 0,
) -> None:
    """Measure a model: open-loop error, calibration and when it diverges, against horizon."""
    for option, path in (("--json", json_file), ("--plot", plot)):
        _check_folder(path, option)
    if not model.is_file():
        raise _fail(f"--model {model}: there is no such file; `mbrl train` writes one")
    from mbrl_ros.dynamics import snapshot
    from mbrl_ros.dynamics.evaluation import evaluate
    from mbrl_ros.offline import sources
    from mbrl_ros.offline.evaluation_report import draw, show

    try:
        trained, spec = snapshot.load(model, robot)
        pieces = sources.load(spec, bag or [], experience, namespace).trajectories(spec)
        found = evaluate(
            trained,
            pieces,
            spec,
            horizon=_horizon_steps(pieces, horizon, spec.period),
            propagation=propagation,
            particles=particles,
            starts=starts,
            seed=seed,
        )
        show(found)
        if json_file is not None:
            json_file.write_text(found.to_json() + "\n", "utf-8")
        if plot is not None:
            draw(found, plot, f"{spec.name}, {trained.kind}")
    except (OSError, ValueError) as error:
        raise _fail(told(error), 1) from None


def _horizon_steps(pieces: Sequence[Trajectory], seconds: float, period: float) -> int:
    """Return the horizon in steps; say so where the data are too short for it."""
    from mbrl_ros.dynamics.evaluation import horizon_steps

    steps = horizon_steps(pieces, seconds, period)
    if steps < round(seconds / period):
        print(
            f"mbrl: --horizon {seconds:g}: the longest uninterrupted piece of data has {steps} "
            f"steps; evaluating over {steps * period:.3g} s",
            file=sys.stderr,
            flush=True,
        )
    return steps


# -- benchmarks -------------------------------------------------------------------------------

bench = typer.Typer(no_args_is_help=True, help="Measure this package next to others.")
app.add_typer(bench, name="bench")

TasksOption = Annotated[
    str | None, typer.Option(metavar="NAME,...", help="Of cartpole, arm2, half_cheetah.")
]
JsonOption = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write all numbers there.")
]


def _names(text: str | None, known: Iterable[str]) -> list[str]:
    return list(known) if text is None else [name.strip() for name in text.split(",")]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@bench.command("logs")
def bench_logs(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the logs.")
    ],
    tasks: TasksOption = None,
    seed: SeedOption = 0,
) -> None:
    """Write the simulated logs that models are trained and judged on."""
    from mbrl_ros.benchmarks import logs

    try:
        logs.write_logs(output, _names(tasks, logs.TASKS), seed, print)
    except logs.BenchmarkError as error:
        raise _fail(str(error), 1) from None


@bench.command("model")
def bench_model(
    json_file: JsonOption = None,
    quick: Annotated[bool, typer.Option("--quick", help="Two minutes, not half an hour.")] = False,
    tasks: TasksOption = None,
    libraries: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="Of mbrl_ros, gpytorch, mbrl-lib.")
    ] = None,
    logs: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Logs to use; what is missing there is made."),
    ] = None,
    seed: SeedOption = 0,
) -> None:
    """Compare learned models with those of other libraries: error, calibration, time."""
    from rich.console import Console

    from mbrl_ros.benchmarks import model

    _check_folder(json_file)
    try:
        rows = model.run(
            _names(tasks, model.TASKS),
            _names(libraries, model.LIBRARIES),
            model.QUICK if quick else model.FULL,
            seed,
            logs,
            _say,
        )
    except model.BenchmarkError as error:
        raise _fail(str(error), 1) from None
    Console().print(model.table(rows))
    _write_json(json_file, [row.plain() for row in rows])


@bench.command("gp")
def bench_gp(json_file: JsonOption = None, seed: SeedOption = 0) -> None:
    """Compare the exact GP with starting again and with bare matrix products.

    Ends with status 1 if a ratio is not what it has to be.
    """
    from mbrl_ros.benchmarks import gp

    _check_folder(json_file)
    try:
        result = gp.run(seed)
    except gp.BenchmarkError as error:
        raise _fail(str(error), 1) from None
    print(result.summary())
    _write_json(json_file, asdict(result))
    if not result.met:
        raise _fail("a ratio is not what it has to be; see above", 1)


@bench.command("plan")
def bench_plan(
    json_file: JsonOption = None,
    quick: Annotated[bool, typer.Option("--quick", help="Two minutes, not fifteen.")] = False,
    libraries: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Of mbrl_ros, pytorch-mppi, pytorch-icem, mbrl-lib, gpytorch.",
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Measured next to one thread; default: all, with --quick none."),
    ] = None,
    seed: SeedOption = 0,
) -> None:
    """Compare planners with those of other libraries: time, and matrix products a second."""
    from rich.console import Console

    from mbrl_ros.benchmarks import plan

    _check_folder(json_file)
    try:
        rows = plan.run(
            _names(libraries, plan.LIBRARIES),
            plan.QUICK if quick else plan.FULL,
            threads,
            seed,
            _say,
        )
    except plan.BenchmarkError as error:
        raise _fail(str(error), 1) from None
    Console().print(plan.table(rows))
    _write_json(json_file, [row.plain() for row in rows])


@bench.command("control")
def bench_control(
    json_file: JsonOption = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw cost against time there (PNG, PDF).")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Two minutes, not half an hour.")] = False,
    tasks: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help="Of cartpole, arm2, diff_drive, half_cheetah."),
    ] = None,
    planners: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="Kinds of planners; default: all.")
    ] = None,
    logs: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Logs to learn from; what is missing there is made."),
    ] = None,
    seed: SeedOption = 0,
) -> None:
    """Compare planners: cost of an episode against time of a plan, dynamics true and learned."""
    from rich.console import Console

    from mbrl_ros.benchmarks import control

    _check_folder(json_file)
    _check_folder(plot, "--plot")
    try:
        rows = control.run(
            None if tasks is None else _names(tasks, ()),
            None if planners is None else _names(planners, ()),
            control.QUICK if quick else control.FULL,
            seed,
            logs,
            _say,
        )
    except control.BenchmarkError as error:
        raise _fail(str(error), 1) from None
    Console().print(control.table(rows))
    _write_json(json_file, [row.plain() for row in rows])
    if plot is not None:
        try:
            control.draw(rows, plot)
        except (OSError, ValueError) as error:
            raise _fail(f"--plot {plot}: {reason(error)}", 1) from None


@bench.command("learn")
def bench_learn(
    robot: Annotated[
        str, typer.Option(metavar="NAME", help="Shipped robot, YAML file or gym/ENVIRONMENT_ID.")
    ] = "cartpole",
    model: Annotated[
        str | None,
        typer.Option(metavar="KIND", help="Kind of model; default: what suits the robot."),
    ] = None,
    planner: Annotated[
        str | None, typer.Option(metavar="KIND", help="Kind of planner; likewise.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs, with seeds 0, 1, ...")] = 10,
    quick: Annotated[
        bool, typer.Option("--quick", help="The first seconds of it, to see that all works.")
    ] = False,
    json_file: JsonOption = None,
) -> None:
    """Let a robot learn its task from nothing, through the whole graph in lockstep."""
    from rich.console import Console

    from mbrl_ros.benchmarks import learn

    _check_folder(json_file)
    try:
        rows = learn.run(robot, model, planner, seeds, quick, _say)
    except learn.BenchmarkError as error:
        raise _fail(str(error), 1) from None
    Console().print(learn.table(rows))
    if quick:
        _say("--quick: this was to see that all works; its figures are no measurement")
    _write_json(json_file, learn.plain(rows))


@bench.command("sample-efficiency")
def bench_sample_efficiency(
    json_file: JsonOption = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw return against steps (PNG, PDF).")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer seeds and steps.")] = False,
    tasks: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="Tasks; default: all.")
    ] = None,
    agents: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="Agents; default: all of each task.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Runs of each agent.")] = None,
    seed: SeedOption = 0,
    rows_files: Annotated[
        list[Path] | None,
        typer.Option(
            "--rows", metavar="FILE", help="Measure nothing: show these rows of --json (again)."
        ),
    ] = None,
) -> None:
    """Compare agents with and without a model: return against real steps."""
    from rich.console import Console

    from mbrl_ros.benchmarks import sample_efficiency
    from mbrl_ros.benchmarks.sample_efficiency_tasks import TASKS

    _check_folder(json_file)
    _check_folder(plot, "--plot")
    try:
        if rows_files:
            rows = [r for f in rows_files for r in sample_efficiency.read(f, TASKS)]
        else:
            rows = sample_efficiency.run(
                TASKS,
                None if tasks is None else _names(tasks, ()),
                None if agents is None else _names(agents, ()),
                seeds,
                seed,
                quick,
                _say,
            )
    except sample_efficiency.BenchmarkError as error:
        raise _fail(str(error), 1) from None
    Console().print(sample_efficiency.table(rows, TASKS))
    _write_json(json_file, [row.plain() for row in rows])
    if plot is not None:
        try:
            sample_efficiency.draw(rows, TASKS, plot)
        except (OSError, ValueError) as error:
            raise _fail(f"--plot {plot}: {error}", 1) from None


@bench.command("adapt")
def bench_adapt(
    json_file: JsonOption = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw cost over time there (PNG, PDF).")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="One minute, not fifteen.")] = False,
    changes: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Of slippery_patch, doubled_payload, halved_motor_gain, reversed_actuator.",
        ),
    ] = None,
    model: Annotated[str, typer.Option(metavar="KIND", help="Kind of dynamics model.")] = "gp",
    seed: SeedOption = 0,
) -> None:
    """Change the world under a moving robot: what it costs, and how long, by who adapts how."""
    from rich.console import Console

    from mbrl_ros.benchmarks import adapt

    _check_folder(json_file)
    _check_folder(plot, "--plot")
    try:
        rows, courses = adapt.run(
            None if changes is None else _names(changes, ()),
            model,
            adapt.QUICK if quick else adapt.FULL,
            seed,
            _say,
        )
    except adapt.BenchmarkError as error:
        raise _fail(str(error), 1) from None
    Console().print(adapt.table(rows))
    _write_json(json_file, [asdict(row) for row in rows])
    if plot is not None:
        try:
            adapt.draw(courses, plot)
        except (OSError, ValueError) as error:
            raise _fail(f"--plot {plot}: {error}", 1) from None


def _check_folder(path: Path | None, option: str = "--json") -> None:
    """Refuse a file that could not be written in the end, before the work is done."""
    if path is not None and not path.absolute().parent.is_dir():
        raise _fail(f"{option} {path}: there is no folder {path.absolute().parent}")
    if path is not None and path.is_dir():
        raise _fail(f"{option} {path}: is a folder, expected a file")


def _write_json(path: Path | None, values: object) -> None:
    if path is not None:
        path.write_text(json.dumps(values, indent=2) + "\n", "utf-8")


def main() -> None:
    """Run the command."""
    app()


if __name__ == "__main__":
    main()
