import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QFileDialog, QLineEdit, QToolButton

from engine.store import RunInfo, Workspace
from engine.task import parse_task
from engine.vault.keys import generate_identity
from workbench import i18n
from workbench.export_dialog import OWN_KEY, RECIPIENTS, ExportDialog

RUN = RunInfo("20260101-000000000-aaaa", "hard/ened 中文", "train", "done", "", {})


@pytest.fixture
def dialog(qtbot, tmp_path):
    i18n.set_language("en")
    workspace = Workspace(tmp_path)
    (workspace.folder / RUN.id).mkdir()
    made = ExportDialog(RUN, workspace)
    qtbot.addWidget(made)
    made.requests = []
    made.requested.connect(lambda task, secrets: made.requests.append((task, secrets)))
    made.show()
    yield made
    i18n.set_language("en")


def press(qtbot, dialog):
    qtbot.mouseClick(dialog._export, Qt.MouseButton.LeftButton)


def test_passphrase_must_be_typed_twice(qtbot, dialog):
    assert not dialog._export.isEnabled()
    qtbot.keyClicks(dialog._passphrase, "correct horse 9")
    assert not dialog._export.isEnabled()
    qtbot.keyClicks(dialog._again, "correct horse 8")
    assert "not the same" in dialog._strength.text()
    assert not dialog._export.isEnabled()
    qtbot.keyClick(dialog._again, Qt.Key.Key_Backspace)
    qtbot.keyClicks(dialog._again, "9")
    assert "bits" in dialog._strength.text()
    press(qtbot, dialog)
    ((task, secrets),) = dialog.requests
    assert secrets == {"passphrase": "correct horse 9"}
    assert "correct" not in str(task)
    assert task.pop("name").startswith(RUN.name)
    assert parse_task(task).passphrase
    assert task["model"] == RUN.id
    assert task["to"].endswith(f"runs/{RUN.id}/hard-ened 中文.safetensors.age")


def test_passphrase_is_hidden_until_shown_and_can_be_made(qtbot, dialog):
    assert dialog._passphrase.echoMode() == QLineEdit.EchoMode.Password
    qtbot.mouseClick(dialog._generate, Qt.MouseButton.LeftButton)
    assert dialog._passphrase.echoMode() == QLineEdit.EchoMode.Normal
    assert dialog._passphrase.text() == dialog._again.text()
    assert dialog._strength.text().startswith("Strong: about 96 bits")
    assert dialog._export.isEnabled()


def test_weak_passphrase_is_called_weak(qtbot, dialog):
    qtbot.keyClicks(dialog._passphrase, "password1")
    assert dialog._strength.text().startswith("Weak")
    assert dialog._strength.property("tone") == "bad"


def test_recipients_are_checked_while_typed(qtbot, dialog):
    dialog._mode.set_current(RECIPIENTS)
    assert not dialog._export.isEnabled()
    one, two = generate_identity().recipient, generate_identity().recipient
    dialog._recipients.setPlainText(f"{one}\n{two[:-1]}q")
    assert "✕" in dialog._recipients_note.text()
    assert not dialog._export.isEnabled()
    dialog._recipients.setPlainText(f"{one}，{two}\n")
    assert dialog._recipients_note.text() == "✓ 2 valid recipient(s)"
    press(qtbot, dialog)
    ((task, secrets),) = dialog.requests
    assert secrets == {}
    assert task["recipients"] == [one, two]
    assert not task["passphrase"]
    assert not task["own_key"]


def test_secret_key_among_recipients_is_refused_without_showing_it(dialog):
    dialog._mode.set_current(RECIPIENTS)
    secret = generate_identity().text
    dialog._recipients.setPlainText(secret)
    assert "secret key" in dialog._recipients_note.text()
    assert secret not in dialog._recipients_note.text()


def test_own_key(qtbot, dialog):
    dialog._mode.set_current(OWN_KEY)
    assert "identity.txt" in dialog._own_note.text()
    press(qtbot, dialog)
    ((task, secrets),) = dialog.requests
    assert (task["own_key"], task["recipients"], secrets) == (True, [], {})


def test_own_key_beside_recipients(qtbot, dialog):
    dialog._mode.set_current(RECIPIENTS)
    qtbot.mouseClick(dialog._own_too, Qt.MouseButton.LeftButton)
    press(qtbot, dialog)
    assert dialog.requests[0][0]["own_key"] is True


def test_target_is_checked(dialog, tmp_path):
    dialog._mode.set_current(OWN_KEY)
    for bad in ("", str(tmp_path), str(tmp_path / "no such folder" / "x.age")):
        dialog._to.setText(bad)
        assert not dialog._export.isEnabled()
        assert dialog._to_note.text().startswith("✕")
    (tmp_path / "x.age").write_bytes(b"old")
    dialog._to.setText(str(tmp_path / "x.age"))
    assert dialog._export.isEnabled()
    assert "replaced" in dialog._to_note.text()


def test_browse_adds_the_suffix(qtbot, dialog, tmp_path, monkeypatch):
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *a: (str(tmp_path / "x"), ""))
    (button,) = [b for b in dialog.findChildren(QToolButton) if b.toolTip() == "Browse…"]
    button.click()
    assert dialog._to.text() == str(tmp_path / "x.age")


def test_result_is_shown_with_its_command(qtbot, dialog):
    qtbot.mouseClick(dialog._generate, Qt.MouseButton.LeftButton)
    press(qtbot, dialog)
    assert not dialog._export.isEnabled()
    dialog.show_progress(3, 10)
    assert dialog._progress.value() == 3
    dialog.show_result({"file": "/a/b.age", "command": "age -d -o ./b.safetensors /a/b.age"})
    assert dialog._passphrase.text() == dialog._again.text() == ""
    assert dialog._file.text() == "/a/b.age"
    copies = [b for b in dialog.findChildren(QToolButton) if b.toolTip() == "Copy"]
    copies[1].click()
    assert QGuiApplication.clipboard().text() == "age -d -o ./b.safetensors /a/b.age"
    assert dialog._close.text() == "Close"
    assert "passphrase" in dialog._result_note.text()
    qtbot.keyClick(dialog, Qt.Key.Key_Escape)
    assert not dialog.isVisible()


def test_failure_can_be_tried_again(qtbot, dialog):
    dialog._mode.set_current(OWN_KEY)
    press(qtbot, dialog)
    dialog.show_failure("The disk is full.")
    assert dialog._failure.text() == "✕ The disk is full."
    press(qtbot, dialog)
    assert len(dialog.requests) == 2
    assert not dialog._failure.isVisible()


def test_closing_forgets_the_passphrase(qtbot, dialog):
    qtbot.keyClicks(dialog._passphrase, "something")
    dialog.reject()
    assert dialog._passphrase.text() == ""


def test_everything_has_a_name_and_speaks_chinese(dialog):
    i18n.set_language("zh")
    assert dialog.windowTitle() == "加密导出"
    assert dialog._export.text() == "导出"
    for field in dialog.findChildren(QLineEdit):
        assert field.accessibleName()
    for button in dialog.findChildren(QToolButton):
        assert button.accessibleName()
