"""What is answered, a package for each kind of question.

It holds no code of its own. None of its packages imports another, or `upkeep`.
"""
