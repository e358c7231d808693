"""Elements of pages: text is escaped, and control characters are written out."""

from vplface.report.markup import Markup, join, tag


def test_join_and_tag_escape_text_and_write_out_control_characters() -> None:
    name = "<b>\x1b[31m\x9b\u202e\0&"
    shown = "&lt;b&gt;\\x1b[31m\\x9b\\u202e\\x00&amp;"
    assert join(name, [name, None]) == shown + shown
    assert tag("p", name, title=name) == f'<p title="{shown}">{shown}</p>'
    assert tag("p", Markup("<b>x</b>"), "a\nb") == "<p><b>x</b>a\nb</p>"
