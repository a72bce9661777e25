"""Doors for other libraries; `import ling` installs the hook, nobody else imports them."""
