"""What `advrbd doctor` finds, here and where something is missing."""

import shutil

from advrbd_plugin import doctor, ops


def by_topic() -> dict[str, doctor.Finding]:
    return {finding.topic: finding for finding in doctor.examine()}


def test_it_names_versions_and_the_backend_that_serves():
    import torch

    findings = by_topic()
    assert torch.__version__.startswith(findings["torch"].value)
    assert findings["ops on CPU tensors"].value.startswith(ops.backend(torch.empty(0)))
    assert doctor.healthy(list(findings.values()))


def test_whatever_is_not_ok_comes_with_advice():
    for finding in doctor.examine():
        assert (finding.state == "ok") == (finding.advice == ""), finding


def test_it_says_what_to_do_without_compiler_toolkit_and_package(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(doctor, "PACKAGES", ("no-such-package",))
    findings = by_topic()
    assert "g++" in findings["C++ compiler"].advice
    assert "CUDA_HOME" in findings["nvcc"].advice
    assert findings["no-such-package"].state == "missing"
    assert not doctor.healthy(list(findings.values()))
