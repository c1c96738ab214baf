# A course for nbgrader: run its commands in this folder. A notebook is an assignment.
#   nbgrader generate_assignment 02_streaming    makes release/ from source/
#   nbgrader zip_collect 02_streaming            takes downloaded/02_streaming/archive/ into submitted/
#   nbgrader autograde 02_streaming              grades submitted/STUDENT/02_streaming/
c = get_config()  # noqa: F821, which nbgrader defines
c.CourseDirectory.course_id = "foundry-lab"
c.ClearSolutions.code_stub = {"python": "# YOUR CODE HERE"}
c.ClearSolutions.text_stub = "Your answer here."
c.ExecutePreprocessor.timeout = 600
# What zip_collect understands: STUDENT.zip, STUDENT/02_streaming.ipynb, STUDENT_02_streaming.ipynb. Numbers
# may stand behind the name, as in STUDENT_1234_02_streaming.ipynb or STUDENT_LATE_1234_02_streaming.ipynb,
# and a number behind the file's own, as in "02_streaming (1).ipynb".
c.FileNameCollectorPlugin.named_regexp = (
    r".*[/\\]extracted[/\\](?!\d\d_[a-z])(?P<student_id>[^/\\]+?)(?:_LATE)?(?:_\d{2,}[^/\\]*?)?(?:_|[/\\](?:.*[/\\])?)"
    r"(?P<file_id>\d\d_[a-z]+)(?:-\d+| ?\(\d+\))?\.ipynb$"
)
