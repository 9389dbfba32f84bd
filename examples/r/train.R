# Softmax regression by gradient descent: Rscript train.R /ckpt digits.csv. Only what comes with R.
arguments <- commandArgs(trailingOnly = TRUE)
directory <- arguments[1]
digits <- as.matrix(read.csv(arguments[2], header = FALSE))
images <- cbind(1, digits[, -1])
labels <- digits[, 1] + 1
wanted <- diag(10)[labels, ]

file <- file.path(directory, "model.rds")
model <- if (file.exists(file)) readRDS(file) else list(step = 0, weights = matrix(0, ncol(images), 10))

while (model$step < 60) {
  parts <- exp(images %*% model$weights)
  chances <- parts / rowSums(parts)
  loss <- -mean(log(chances[cbind(seq_along(labels), labels)]))
  model$weights <- model$weights - 0.5 * crossprod(images, chances - wanted) / nrow(images)
  model$step <- model$step + 1
  if (model$step %% 5 == 0) {
    saveRDS(model, file)
    writeLines(sprintf("step=%d loss=%.6f", model$step, loss), file.path(directory, ".save"))  # one version
  }
  write(sprintf("step %d loss %.9g", model$step, loss), stdout())
}
