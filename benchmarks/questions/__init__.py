"""The question-answering benchmark's parts: wordings, questions with true answers, network, shifts, results."""
