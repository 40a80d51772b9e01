// Instructions taken away: a prompt that begins by naming the task (of translations the language) without that
// beginning, so that a model has to see from the content what is asked.
//
// P111 (CDSP-MoE) trains with a tenth of the tasks' names left out and judges by "blind inference", without any
// (authors' code, models/layer.py: task dropout of 0.1).
#pragma once
#include <span>

#include "collegium/base/random.h"
#include "collegium/data/documents.h"

namespace collegium::data {

/// Takes the instructions of about `share` (0 to 1) of the documents that have one; which, follows from `random` and
/// their places in the list.
void take_instructions(std::span<Document> documents, double share, const Random& random);

}  // namespace collegium::data
