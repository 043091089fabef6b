"""Plans of studies: what they hold, what changes a run, what is refused."""

import json

import pytest
from places import REPOSITORY

from fgfi_tf.errors import UserError
from fgfi_tf.studies import plan as plans

TEXT = """
# a comment
[study]
title = A title
seeds = 0-2
baseline = plain
teacher = teacher
flags =
    --model=shuffledet_0.25x --steps=30
    --data_dir={data}

[teacher]
alone = yes
seeds = 0
flags = --model=shuffledet_0.5x --steps=40 --data_dir={data}

[plain]

[imitating]
title = imitating, weight 4
flags = --imitation --imitation_weight=4 --teacher_checkpoint={run:teacher}
"""


def read(tmp_path, text=TEXT):
    (tmp_path / "a.cfg").write_text(text)
    return plans.read_plan(tmp_path / "a.cfg")


def test_arms_and_seeds(tmp_path):
    plan = read(tmp_path)
    assert plan.title == "A title" and plan.baseline == "plain" and plan.teacher == "teacher"
    assert [arm.name for arm in plan.arms] == ["teacher", "plain", "imitating"]
    assert plan.arm("teacher").flags == ("--model=shuffledet_0.5x", "--steps=40", "--data_dir={data}")
    assert plan.arm("plain").flags == ("--model=shuffledet_0.25x", "--steps=30", "--data_dir={data}")
    assert plan.arm("imitating").title == "imitating, weight 4"
    assert [(arm.name, seed) for arm, seed in plan.runs()] == [
        ("teacher", 0),
        ("plain", 0),
        ("imitating", 0),
        ("plain", 1),
        ("imitating", 1),
        ("plain", 2),
        ("imitating", 2),
    ]


def test_what_an_arm_is_compared_with(tmp_path):
    assert [arm.against for arm in read(tmp_path).arms] == [(), (), ("plain",)]
    more = "[longer]\nagainst = \n[better]\nagainst = imitating, longer,imitating\n"
    arms = read(tmp_path, TEXT + more).arms
    assert [arm.against for arm in arms] == [(), (), ("plain",), (), ("imitating", "longer")]


def test_an_axis(tmp_path):
    assert read(tmp_path).axis is None
    text = TEXT.replace("[imitating]", "[imitating]\nat = 4\nline = all of it")
    plan = read(tmp_path, text)
    assert (plan.arm("imitating").at, plan.arm("imitating").line) == (4.0, "all of it")
    assert (plan.arm("plain").at, plan.arm("plain").line) == (None, "")
    assert plan.axis == plans.Axis("", logarithmic=False, published=(), published_title="published")
    more = "axis = weight\naxis_scale = logarithmic\npublished = 1: 40, 4:52.5\npublished_title = P\n"
    assert read(tmp_path, text.replace("seeds = 0-2\n", f"seeds = 0-2\n{more}")).axis == plans.Axis(
        "weight", logarithmic=True, published=((1.0, 0.4), (4.0, 0.525)), published_title="P"
    )


@pytest.mark.parametrize(
    "keys, at, message",
    [
        ("axis_scale = log", 1, "axis_scale = log: known are linear, logarithmic"),
        ("axis_scale = logarithmic", 0, "axis_scale = logarithmic: places must be above 0"),
        ("axis_scale = logarithmic\npublished = 0: 3", 1, "axis_scale = logarithmic: places must be above 0"),
        ("published = 1: 3, 2", 0, r"\[study\] published = 1: 3, 2: '' is no number"),
        ("published = 1: 3, x: 4", 0, r"\[study\] published = 1: 3, x: 4: 'x' is no number"),
    ],
)
def test_an_axis_that_cannot_be(tmp_path, keys, at, message):
    text = TEXT.replace("[study]\n", f"[study]\n{keys}\n").replace("[plain]", f"[plain]\nat = {at}")
    with pytest.raises(UserError, match=message):
        read(tmp_path, text)


def test_a_source_of_the_same_seed_or_the_only_one(tmp_path):
    arm = read(tmp_path).arm("teacher")
    assert plans.source_seed(arm, 2) == 0
    several = read(tmp_path, TEXT.replace("seeds = 0\n", "seeds = 0, 2\n")).arm("teacher")
    assert plans.source_seed(several, 2) == 2
    with pytest.raises(UserError, match=r"\[teacher\] has several seeds and not 1"):
        plans.source_seed(several, 1)


def test_a_fingerprint_is_of_what_a_result_depends_on(tmp_path):
    def prints(text):
        plan = read(tmp_path, text)
        return [plans.fingerprint(plan, arm, 1) for arm in plan.arms[1:]]

    plain, imitating = prints(TEXT)
    assert plain != imitating
    # How often a run is logged or saved, where it lies: nothing that a result depends on.
    assert prints(TEXT.replace("--steps=30", "--steps=30 --summary_every=7")) == [plain, imitating]
    assert prints(TEXT.replace("seeds = 0-2", "seeds = 0-9")) == [plain, imitating]
    # A default said aloud.
    assert prints(TEXT.replace("--steps=30", "--steps=30 --psi=0.5")) == [plain, imitating]
    changed = prints(TEXT.replace("--steps=30", "--steps=31"))
    assert changed[0] != plain and changed[1] != imitating
    # Another teacher: another imitating student, the same plain one.
    changed = prints(TEXT.replace("--steps=40", "--steps=41"))
    assert changed[0] == plain and changed[1] != imitating
    plan = read(tmp_path)
    assert plans.fingerprint(plan, plan.arm("plain"), 0) != plain


def test_what_a_run_starts_from_is_in_its_fingerprint(tmp_path):
    def prints(*flags, names="abcdefgh"):
        more = "".join(
            f"[{name}]\nflags = {flag}\n" for name, flag in zip(names[: len(flags)], flags, strict=True)
        )
        plan = read(tmp_path, TEXT + more)
        return [plans.fingerprint(plan, plan.arm(name), 1) for name in ("plain", *names[: len(flags)])]

    found = prints(
        "--init_checkpoint=imagenet",
        "--init_checkpoint=other.pth",
        "--init_checkpoint={run:teacher}",
        "--schedule_steps=40",
        "--data_dir={data}/half",
        "--imitation --teacher_checkpoint={run:teacher}",
        "--imitation --teacher_checkpoint=teacher.ckpt",
        "--imitation --teacher_checkpoint=teacher.ckpt --teacher_model=shuffledet_1x",
    )
    assert len(set(found)) == 9
    # A teacher that nobody imitates, and the arms' names, are nothing.
    assert prints("--teacher_checkpoint=teacher.ckpt --teacher_model=shuffledet_1x")[1] == found[0]
    text = (
        TEXT.replace("teacher]", "best]")
        .replace("run:teacher", "run:best")
        .replace("r = teacher", "r = best")
    )
    plan, renamed = read(tmp_path), read(tmp_path, text)
    assert plans.fingerprint(plan, plan.arm("imitating"), 1) == plans.fingerprint(
        renamed, renamed.arm("imitating"), 1
    )


@pytest.mark.parametrize(
    "change, message",
    [
        (("[study]", "[other]"), r"wants a section \[study\]"),
        (("title = A title", "titel = A title"), r"\[study\] has no 'titel'; known are axis"),
        (("seeds = 0-2", "seeds = 2-0"), "seeds = '2-0': numbers and ranges such as 0-5, 9"),
        (("seeds = 0-2", "seeds = 1, 1"), "at least one, and none twice"),
        (("seeds = 0-2", "seeds ="), "at least one"),
        (("baseline = plain", "baseline = plane"), r"no arm \[plane\]; there are teacher, plain, imitating"),
        (("{run:teacher}", "{run:techer}"), r"no arm \[techer\]"),
        (("[plain]", "[plain]\nagainst = plane"), r"no arm \[plane\]; there are teacher, plain, imitating"),
        (
            ("[plain]", "[plain]\nagainst = teacher, plain"),
            r"\[plain\] against = teacher, plain: an arm is not compared with itself",
        ),
        (("--steps=30", "--setps=30"), r"\[plain\]: unknown flag --setps; did you mean"),
        (("--steps=30", "--seed=3"), r"\[plain\] --seed=3: the study itself sets it"),
        (("--steps=30", "--output_dir=x"), "the study itself sets it"),
        (
            ("--steps=30", "--steps=30 --checkpoint_every=20 --evaluate_every=30"),
            "--evaluate_every=30: checkpoints are evaluated, so it must be a multiple",
        ),
        (("[plain]", "[teacher]"), "section 'teacher' already exists"),
        (("[plain]", "[plain]\nat = many"), r"\[plain\] at = many: 'many' is no number"),
        (("[plain]", "[plain]\nat = inf"), r"\[plain\] at = inf: 'inf' is no number"),
        (
            ("seeds = 0-2", "seeds = 0-2\naxis = psi"),
            "axis = psi: no arm has a place at it, such as at = 0.3",
        ),
        (("alone = yes", "alone = maybe"), r"\[teacher\] alone = maybe: yes or no"),
        (("--steps=40", "--steps=40 'half"), r"\[teacher\] flags: No closing quotation"),
        (("--steps=30", "--steps=30 --data_dir='half"), r"\[study\] flags: No closing quotation"),
        (
            ("--steps=40", "--steps=40 --init_checkpoint={run:imitating}"),
            r"\[teacher\] from \[imitating\] from \[teacher\]: no arm can start from itself",
        ),
        (("[plain]", "[plain]\nflags = --init_checkpoint={run:plain}"), r"\[plain\] from \[plain\]: no arm"),
        (("--steps=30", "--help"), r"\[plain\] --help: is for the command line"),
    ],
)
def test_refusals(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, TEXT.replace(*change))


def test_a_flagfile_cannot_overwrite(tmp_path):
    (tmp_path / "flags.cfg").write_text("--overwrite\n")
    with pytest.raises(UserError, match=r"\[plain\] --overwrite: the study itself sets it"):
        read(tmp_path, TEXT.replace("--steps=30", f"--steps=30 --flagfile={tmp_path}/flags.cfg"))


def test_shipped_plans_can_run_and_their_results_are_theirs():
    """A change of what a fingerprint is made of would make every recorded result unknown."""
    paths = sorted((REPOSITORY / "configs/studies").glob("*.cfg"))
    assert len(paths) >= 11
    for path in paths:
        plan = plans.read_plan(path)
        lines = path.with_suffix(".jsonl").read_text().splitlines()
        assert lines
        for line in map(json.loads, lines):
            arm = plan.arm(line["arm"])
            assert line["fingerprint"] == plans.fingerprint(plan, arm, line["seed"]), (path, line["arm"])


def test_a_plan_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="gone.cfg: cannot be read"):
        plans.read_plan(tmp_path / "gone.cfg")


def test_the_plan_of_several_maps(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    plan = plans.read_plan("configs/studies/voc_ssd.cfg")
    found = {arm: plans.config_of(plan.arm(arm)) for arm in ("plain", "best", "assigned", "each")}
    assert {plan.arm(arm).seeds for arm in found} == {(0, 1, 2)}
    assert [found[arm].imitation_levels for arm in ("best", "assigned", "each")] == [
        "best",
        "assigned",
        "each",
    ]
    teacher = plans.config_of(plan.arm("teacher"))
    assert (teacher.dataset, teacher.size) == ("voc", (300, 300))
    assert not found["plain"].imitation and all(found[a].imitation for a in ("best", "assigned", "each"))


@pytest.mark.parametrize(
    ("name", "taught", "how"),
    [
        *(
            (name, "imitating", set())
            for name in ("drawn_scenes", "kitti_core", "voc_faster_rcnn", "voc_fpn", "wider")
        ),
        ("kitti_half", "half_imitating", {"imitation_normalization"}),
    ],
)
def test_shipped_plans(monkeypatch, name, taught, how):
    monkeypatch.chdir(REPOSITORY)
    plan = plans.read_plan(f"configs/studies/{name}.cfg")
    assert plan.arm(plan.baseline).seeds == plan.arm(taught).seeds and plan.teacher == "teacher"
    plain, imitating = (plans.config_of(plan.arm(arm)) for arm in (plan.baseline, taught))
    differing = {key for key, value in vars(plain).items() if value != getattr(imitating, key)}
    differing -= {"imitation_weight", "imitation_share"}
    assert differing == {"imitation", "teacher_checkpoint"} | how
