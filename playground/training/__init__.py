"""How the playground's weights come to be: one stage a file, each resumable, each from seeds."""
