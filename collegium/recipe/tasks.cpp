#include "collegium/recipe/workload.h"

namespace collegium {

extern const Entry<TaskKind> task_digit_grid;
extern const Entry<TaskKind> task_language;

Entries<TaskKind> tasks() {
  static constexpr const Entry<TaskKind>* kAll[] = {
      &task_digit_grid,
      &task_language,
  };
  return kAll;
}

std::unique_ptr<TaskKind> task_of(const RunConfig& config) {
  return find(tasks(), config.task, "task").make(config.task, {});
}

bool has_text(const RunConfig& config) {
  return find(tasks(), config.task, "task").card.claims.has_text;
}

std::vector<std::string_view> unread_parts(const RunConfig& config) {
  if (has_text(config)) return {};
  return {"data", "sample", "train.context", "train.consistency", "train.noise"};
}

}  // namespace collegium
