/**
 * Repeats the engine's tests with the fuse-overlayfs snapshotter.
 */
process.env.BERTH_SNAPSHOTTER = 'fuse-overlayfs';
await import('./engine.test.ts');
