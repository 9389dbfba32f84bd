/* Softmax regression on MNIST files, one pass over them a step: train /ckpt train-images-idx3-ubyte train-labels-idx1-ubyte */
#include <fcntl.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { STEPS = 60, EVERY = 5, CLASSES = 10, MAX_PIXELS = 28 * 28 };

static struct {
    uint32_t step;
    float weight[CLASSES][MAX_PIXELS + 1];
} model;

static void die(const char *what) { perror(what); exit(1); }

/* Returns the bytes of an idx file after its header, and its number of items. */
static uint8_t *read_idx(const char *path, uint32_t *items, uint32_t *item_bytes) {
    FILE *file = fopen(path, "rb");
    uint8_t head[4], size[4];
    if (!file || fread(head, 1, 4, file) != 4) die(path);
    *items = 0, *item_bytes = 1;
    for (int dimension = 0; dimension < head[3]; dimension++) {
        if (fread(size, 1, 4, file) != 4) die(path);
        uint32_t n = (uint32_t)size[0] << 24 | size[1] << 16 | size[2] << 8 | size[3];
        if (dimension) *item_bytes *= n; else *items = n;
    }
    uint8_t *bytes = malloc((size_t)*items * *item_bytes);
    if (!bytes || fread(bytes, *item_bytes, *items, file) != *items) die(path);
    fclose(file);
    return bytes;
}

/* Follows the gradient of one image; returns its loss. */
static double learn(const uint8_t *pixel, uint32_t pixels, int label) {
    double score[CLASSES], high = -INFINITY, sum = 0;
    for (int c = 0; c < CLASSES; c++) {
        score[c] = model.weight[c][pixels];
        for (uint32_t i = 0; i < pixels; i++) score[c] += model.weight[c][i] * pixel[i] / 255;
        high = fmax(high, score[c]);
    }
    for (int c = 0; c < CLASSES; c++) sum += score[c] = exp(score[c] - high);
    for (int c = 0; c < CLASSES; c++) {
        float wrong = 0.002f * (float)(score[c] / sum - (c == label));
        for (uint32_t i = 0; i < pixels; i++) model.weight[c][i] -= wrong * pixel[i] / 255;
        model.weight[c][pixels] -= wrong;
    }
    return -log(score[label] / sum);
}

static void save(const char *directory, double loss) {
    char path[4096], new_path[4096], note[64];
    snprintf(path, sizeof path, "%s/model.bin", directory);
    snprintf(new_path, sizeof new_path, "%s/model.bin.new", directory);
    FILE *file = fopen(new_path, "wb");
    if (!file || fwrite(&model, sizeof model, 1, file) != 1 || fclose(file) || rename(new_path, path)) die(new_path);

    snprintf(path, sizeof path, "%s/.save", directory);   /* one version; the text is its note */
    int fd = open(path, O_WRONLY), length = snprintf(note, sizeof note, "step=%u loss=%.6f", model.step, loss);
    if (fd < 0 || write(fd, note, length) != length || close(fd)) die(path);
}

int main(int count, char **argument) {
    if (count != 4) return fprintf(stderr, "usage: train DIRECTORY IMAGES LABELS\n"), 2;
    uint32_t images, labels, pixels, one;
    uint8_t *image = read_idx(argument[2], &images, &pixels), *label = read_idx(argument[3], &labels, &one);
    if (pixels > MAX_PIXELS || images != labels) return fprintf(stderr, "not images and their labels\n"), 1;

    char path[4096];
    snprintf(path, sizeof path, "%s/model.bin", argument[1]);
    FILE *file = fopen(path, "rb");
    if (file && fread(&model, sizeof model, 1, file) != 1) die(path);
    if (file) fclose(file);

    setvbuf(stdout, NULL, _IOLBF, 0);
    while (model.step < STEPS) {
        double loss = 0;
        for (uint32_t i = 0; i < images; i++) loss += learn(image + (size_t)i * pixels, pixels, label[i]) / images;
        model.step++;
        if (model.step % EVERY == 0) save(argument[1], loss);
        printf("step %u loss %.9g\n", model.step, loss);
    }
    return 0;
}
