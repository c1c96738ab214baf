# A course for nbgrader: run its commands in this folder. A notebook is an assignment.
#   nbgrader generate_assignment 02_streaming    makes release/ from source/
#   nbgrader zip_collect 02_streaming            takes downloaded/02_streaming/archive/ into submitted/
#   nbgrader autograde 02_streaming              grades submitted/STUDENT/02_streaming/
from nbgrader import preprocessors

c = get_config()  # noqa: F821, which nbgrader defines
c.CourseDirectory.course_id = "foundry-lab"
c.ClearSolutions.code_stub = {"python": "# YOUR CODE HERE"}
c.ClearSolutions.text_stub = "Your answer here."
c.ExecutePreprocessor.timeout = 600


class CopiedCells(preprocessors.DeduplicateIds):
    """Who copies a cell of an exercise copies nbgrader's mark, too. Of two with one mark, the lower counts.

    nbgrader's own leaves an empty mark, takes it for one of an old version, and stops for the whole class.
    """

    def preprocess_cell(self, cell, resources, cell_index):
        cell, resources = super().preprocess_cell(cell, resources, cell_index)
        if not cell.metadata.get("nbgrader", True):
            del cell.metadata["nbgrader"]
        return cell, resources


c.Autograde.sanitize_preprocessors = [
    preprocessors.ClearOutput,
    CopiedCells,
    preprocessors.OverwriteKernelspec,
    preprocessors.OverwriteCells,
    preprocessors.CheckCellMetadata,
]
# What zip_collect understands: STUDENT.zip, STUDENT/02_streaming.ipynb, STUDENT_02_streaming.ipynb. Numbers
# may stand after the name, as in STUDENT_1234_02_streaming.ipynb or STUDENT_LATE_1234_02_streaming.ipynb,
# and a number after the file's own, as in "02_streaming (1).ipynb".
c.FileNameCollectorPlugin.named_regexp = (
    r".*[/\\]extracted[/\\](?!\d\d_[a-z])(?P<student_id>[^/\\]+?)(?:_LATE)?(?:_\d{2,}[^/\\]*?)?(?:_|[/\\](?:.*[/\\])?)"
    r"(?P<file_id>\d\d_[a-z]+)(?:-\d+| ?\(\d+\))?\.ipynb$"
)
