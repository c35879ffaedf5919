/* Performs the steps of the spec, in their order, inside the container's root; then makes that root the only one. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <linux/mount.h>

#include "run.h"

static int take_one(const struct lfs_step *step)
{
	if (step->flags & LFS_STEP_FOREIGN)
		return lfs_foreign_tree(step->type, step->source);
	return lfs_sys_open_tree(AT_FDCWD, step->source, step->flags & LFS_STEP_RECURSIVE);
}

/* A private copy of the mount at `root` is the container's root: what is done to it does not reach the host's. */
static int take_shared(struct lfs_scene *scene, const struct lfs_spec *spec, struct lfs_failure *failure)
{
	scene->shared = calloc(spec->step_count + 1, sizeof *scene->shared);
	if (!scene->shared)
		return lfs_failed(failure, LFS_STAGE_MOUNT, -ENOMEM, "taking the shared mounts");
	for (size_t i = 0; i < spec->step_count; i++) {
		const struct lfs_step *step = &spec->steps[i];
		scene->shared[i] = -1;
		if (step->kind != LFS_STEP_BIND || (step->mode != MS_SHARED && !(step->flags & LFS_STEP_FOREIGN)))
			continue;
		scene->shared[i] = take_one(step);
		if (scene->shared[i] < 0)
			return lfs_failed(failure, LFS_STAGE_MOUNT, scene->shared[i], "opening \"%s\"", step->source);
	}
	return 0;
}

/* Only "/" can be reached for sure by who is not the host's root; what is mounted there shows after pivot_root. */
static int place_taken(struct lfs_scene *scene, const struct lfs_trees *trees, struct lfs_failure *failure)
{
	scene->shared = trees->binds;
	scene->ready = true;
	scene->root = trees->root;
	LFS_AUTO_FD target = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	int rc = target < 0 ? -errno : lfs_sys_set_mount(AT_FDCWD, "/", true, 0, MS_SLAVE);
	if (rc == 0)
		rc = lfs_sys_attach(scene->root, target);
	return rc < 0 ? lfs_failed(failure, LFS_STAGE_ROOT, rc, "mounting the root") : 0;
}

int lfs_scene_open(struct lfs_scene *scene, const struct lfs_spec *spec, const struct lfs_trees *trees, struct lfs_failure *failure)
{
	const char *root = spec->root;
	*scene = (struct lfs_scene){ -1, -1, -1, NULL, false };
	if (trees)
		return place_taken(scene, trees, failure);
	if (take_shared(scene, spec, failure) < 0)
		return -failure->error;
	/* slave, not private: an unmount on the host still reaches the copies we hold until pivot_root lets them go */
	int rc = lfs_sys_set_mount(AT_FDCWD, "/", true, 0, MS_SLAVE);
	if (rc < 0)
		return lfs_failed(failure, LFS_STAGE_ROOT, rc, "taking the mounts out of the host's propagation");
	LFS_AUTO_FD copy = lfs_sys_open_tree(AT_FDCWD, root, true);
	if (copy < 0)
		return lfs_failed(failure, LFS_STAGE_ROOT, copy, "opening the root \"%s\"", root);
	LFS_AUTO_FD target = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (target < 0)
		return lfs_failed(failure, LFS_STAGE_ROOT, -errno, "opening the root \"%s\"", root);
	rc = lfs_sys_set_mount(copy, "", true, 0, MS_PRIVATE);
	if (rc == 0)
		rc = lfs_sys_attach(copy, target);
	if (rc < 0)
		return lfs_failed(failure, LFS_STAGE_ROOT, rc, "mounting the root \"%s\"", root);
	scene->root = lfs_steal_fd(&copy);
	return 0;
}

static int attach_at(struct lfs_scene *scene, const struct lfs_step *step, int mount, bool directory)
{
	LFS_AUTO_FD target = lfs_target_open(scene->root, step->target, directory, step->flags & LFS_STEP_STRICT);
	return target < 0 ? target : lfs_sys_attach(mount, target);
}

static int mount_filesystem(struct lfs_scene *scene, const struct lfs_step *step)
{
	LFS_AUTO_FD mount = lfs_sys_new_mount(step->type, step->source, step->options, step->attributes);
	return mount < 0 ? mount : attach_at(scene, step, mount, true);
}

static int finish_bind(const struct lfs_step *step, int mount)
{
	bool recursive = step->flags & LFS_STEP_RECURSIVE;
	return lfs_sys_set_mount(mount, "", recursive, step->attributes, step->mode ? step->mode : MS_PRIVATE);
}

int lfs_bind_take(const struct lfs_step *step, int users)
{
	LFS_AUTO_FD mount = lfs_sys_open_tree(AT_FDCWD, step->source, step->flags & LFS_STEP_RECURSIVE);
	if (mount < 0)
		return mount;
	int rc = step->flags & LFS_STEP_MAPPED ? lfs_sys_map_mount(mount, users) : 0;
	if (rc == 0)
		rc = finish_bind(step, mount);
	return rc < 0 ? rc : lfs_steal_fd(&mount);
}

static int mount_bind(struct lfs_scene *scene, const struct lfs_step *step, int *shared)
{
	struct stat info;
	bool recursive = step->flags & LFS_STEP_RECURSIVE;
	LFS_AUTO_FD mount = *shared >= 0 ? lfs_steal_fd(shared) : lfs_sys_open_tree(AT_FDCWD, step->source, recursive);
	if (mount < 0)
		return mount;
	if (fstat(mount, &info) < 0)
		return -errno;
	int rc = scene->ready ? 0 : finish_bind(step, mount);
	return rc < 0 ? rc : attach_at(scene, step, mount, S_ISDIR(info.st_mode));
}

/* An existing target; -ENOENT also where a part of the path is no directory. */
static int open_existing(struct lfs_scene *scene, const struct lfs_step *step)
{
	int fd = lfs_sys_open_in(scene->root, step->target, O_PATH, step->flags & LFS_STEP_STRICT);
	return fd == -ENOTDIR ? -ENOENT : fd;
}

static int add_attributes(struct lfs_scene *scene, const struct lfs_step *step)
{
	LFS_AUTO_FD target = open_existing(scene, step);
	if (target < 0)
		return target;
	return lfs_sys_set_mount(target, "", step->flags & LFS_STEP_RECURSIVE, step->attributes, 0);
}

static int bind_read_only(struct lfs_scene *scene, const struct lfs_step *step)
{
	LFS_AUTO_FD target = open_existing(scene, step);
	if (target < 0)
		return target;
	LFS_AUTO_FD mount = lfs_sys_open_tree(target, "", true);
	if (mount < 0)
		return mount;
	int rc = lfs_sys_set_mount(mount, "", true, MOUNT_ATTR_RDONLY, 0);
	return rc < 0 ? rc : lfs_sys_attach(mount, target);
}

/* All masked directories show one and the same empty tmpfs: the first is made, the others are copies of it. */
static int mask_directory(struct lfs_scene *scene, int target)
{
	if (scene->empty_dir >= 0) {
		LFS_AUTO_FD copy = lfs_sys_open_tree(scene->empty_dir, "", false);
		return copy < 0 ? copy : lfs_sys_attach(copy, target);
	}
	LFS_AUTO_FD made = lfs_sys_new_mount("tmpfs", "tmpfs", "ro", MOUNT_ATTR_RDONLY);
	if (made < 0)
		return made;
	int rc = lfs_sys_attach(made, target);
	if (rc == 0)
		scene->empty_dir = lfs_steal_fd(&made);
	return rc;
}

static int mask(struct lfs_scene *scene, const struct lfs_step *step)
{
	struct stat info;
	LFS_AUTO_FD target = open_existing(scene, step);
	if (target < 0)
		return target;
	if (fstat(target, &info) < 0)
		return -errno;
	if (S_ISDIR(info.st_mode))
		return mask_directory(scene, target);
	LFS_AUTO_FD null = lfs_null_clone(scene);
	return null < 0 ? null : lfs_sys_attach(null, target);
}

static int write_sysctl(struct lfs_scene *scene, const struct lfs_step *step)
{
	LFS_AUTO_FD file = lfs_sys_open_in(scene->root, step->target, O_WRONLY, true);
	if (file < 0)
		return file;
	return write(file, step->source, strlen(step->source)) < 0 ? -errno : 0;
}

static int perform(struct lfs_scene *scene, const struct lfs_step *step, int *shared)
{
	switch (step->kind) {
	case LFS_STEP_FILESYSTEM: return mount_filesystem(scene, step);
	case LFS_STEP_BIND: return mount_bind(scene, step, shared);
	case LFS_STEP_ATTRIBUTES: return add_attributes(scene, step);
	case LFS_STEP_READ_ONLY: return bind_read_only(scene, step);
	case LFS_STEP_MASK: return mask(scene, step);
	case LFS_STEP_DEVICE: return lfs_device_make(scene, step);
	case LFS_STEP_LINK: return lfs_link_make(scene, step);
	case LFS_STEP_SYSCTL: return write_sysctl(scene, step);
	default: return -EBADMSG;
	}
}

static const char *verb(uint32_t kind)
{
	switch (kind) {
	case LFS_STEP_MASK: return "masking";
	case LFS_STEP_DEVICE: return "making the device";
	case LFS_STEP_LINK: return "making the link";
	case LFS_STEP_SYSCTL: return "setting";
	case LFS_STEP_READ_ONLY: return "making read-only";
	default: return "mounting";
	}
}

int lfs_steps_perform(struct lfs_scene *scene, const struct lfs_spec *spec, struct lfs_failure *failure)
{
	for (size_t i = 0; i < spec->step_count; i++) {
		const struct lfs_step *step = &spec->steps[i];
		int rc = perform(scene, step, &scene->shared[i]);
		if (rc == -ENOENT && step->flags & LFS_STEP_OPTIONAL)
			continue;
		const char *what = *step->type ? step->type : step->source;
		if (rc < 0 && step->kind <= LFS_STEP_BIND)
			return lfs_failed(failure, LFS_STAGE_MOUNT, rc, "mounting \"%s\" to rootfs at \"%s\"", what, step->target);
		if (rc < 0)
			return lfs_failed(failure, LFS_STAGE_MOUNT, rc, "%s \"%s\"", verb(step->kind), step->target);
	}
	return 0;
}

int lfs_scene_enter(struct lfs_scene *scene, bool read_only, struct lfs_failure *failure)
{
	int rc = fchdir(scene->root) < 0 ? -errno : 0;
	if (rc == 0)
		rc = lfs_sys_pivot_here();
	if (rc == 0 && chdir("/") < 0)
		rc = -errno;
	if (rc == 0 && read_only)
		rc = lfs_sys_set_mount(AT_FDCWD, "/", false, MOUNT_ATTR_RDONLY, 0);
	return rc < 0 ? lfs_failed(failure, LFS_STAGE_ROOT, rc, "pivot_root") : 0;
}
