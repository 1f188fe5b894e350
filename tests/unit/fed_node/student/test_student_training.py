"""Training: it learns, it repeats itself to the bit, it can be stopped, and it refuses nonsense."""

from dataclasses import replace

import pytest
import torch
from student_phantoms import student_data

from fed_node.student.sm_lite import new_student, student_tensors
from fed_node.student.training import DEFAULT_OPTIONS, FLOOR, TrainingOptions, rate_factor, train
from fedmentor.errors import EmptyDataset, ModelError
from fedmentor.federation import TrainingPlan
from fedmentor.models import digest_of

PLAN = TrainingPlan(local_epochs=2, batch_images=4, learning_rate=2e-3)


def trained(data, seed=1, options=DEFAULT_OPTIONS, plan=PLAN):
    student = new_student(0)
    report = train(student, data, plan, seed, options)
    return digest_of(student_tensors(student)), report


def test_it_learns():
    _, report = trained(student_data(12), plan=PLAN.model_copy(update={"local_epochs": 6}))
    assert report.losses[-1] < 0.6 * report.losses[0]
    assert (report.steps, report.images, len(report.losses)) == (18, 12, 6)


@pytest.mark.parametrize("softened", [False, True])
def test_the_same_seed_gives_the_same_bytes(softened):
    data = student_data(6, softened=softened)
    torch.manual_seed(1)
    first = trained(data)
    torch.manual_seed(2)
    assert trained(data) == first
    assert trained(data, seed=2)[0] != first[0]


def test_distillation_needs_no_masks():
    data = student_data(6, masked=False, softened=True)
    digest, report = trained(data)
    assert report.images == 6
    # What stands in the mask plane of an image without a mask is never looked at.
    assert trained(replace(data, masks=~data.masks))[0] == digest


def test_a_site_trains_on_the_images_that_have_a_mask():
    data = student_data(6)
    partly = replace(data, has_mask=torch.tensor([True, True, False, True, False, False]))
    _, report = trained(partly)
    assert report.images == 3


def test_the_last_batch_may_be_short_and_every_image_counts_once():
    seen = []
    _, report = trained(student_data(5), options=TrainingOptions(progress=seen.append))
    assert report.steps == 4
    assert [(now.step, now.steps) for now in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert report.losses[0] == pytest.approx((4 * seen[0].loss + seen[1].loss) / 5)


def test_it_stops_before_the_next_step():
    steps = []
    options = TrainingOptions(progress=steps.append, should_stop=lambda: len(steps) == 2)
    _, report = trained(student_data(8), options=options)
    assert report is None
    assert len(steps) == 2


def test_switching_augmentation_off_changes_the_result_but_is_as_deterministic():
    data, still = student_data(6), PLAN.model_copy(update={"augment": False})
    assert trained(data, plan=still) == trained(data, plan=still)
    assert trained(data, plan=still)[0] != trained(data)[0]


def test_nothing_to_learn_from_is_refused():
    with pytest.raises(EmptyDataset):
        trained(student_data(3, masked=False))


def test_a_loss_that_is_no_number_stops_training():
    data = student_data(4)
    data.images[0, 0, 0, 0] = torch.nan
    with pytest.raises(ModelError, match="finite"):
        trained(data, plan=PLAN.model_copy(update={"augment": False}))


def test_the_cosine_climbs_then_falls_and_a_round_is_constant():
    rates = [rate_factor("cosine", step, 100) for step in range(100)]
    peak = rates.index(max(rates))
    assert peak == 4
    assert rates[:5] == sorted(rates[:5])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert FLOOR < rates[-1] < 0.02
    assert {rate_factor("constant", step, 100) for step in range(100)} == {1.0}
