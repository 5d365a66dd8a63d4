/**
 * The engine's tests again, with roots by fuse-overlayfs.
 */
process.env.BERTH_SNAPSHOTTER = 'fuse-overlayfs';
await import('./engine.test.ts');
