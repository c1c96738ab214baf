"""Wrong answers that learners may well give, each with the part of the hint that must name the reason."""

from wrong_answers import basic, batch, operations, production, start, streaming

WRONG = {
    number: table
    for module in (start, basic, streaming, batch, production, operations)
    for number, table in module.WRONG.items()
}
